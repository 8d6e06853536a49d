//! TLS at both ends of a proxied connection, and the stream that hides whether there is any.

mod stream;

pub use self::stream::Stream;
