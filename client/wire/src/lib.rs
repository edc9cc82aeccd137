//! Frames between clients and silos, without sockets
