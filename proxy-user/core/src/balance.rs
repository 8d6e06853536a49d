//! Choosing an endpoint for a new connection.
