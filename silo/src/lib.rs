//! Virtual grains for streams: the facade and the granary binary
