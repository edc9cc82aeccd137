//! Windows, watermarks, triggers and aggregates as state machines without IO
