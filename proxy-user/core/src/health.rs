//! Active and passive health.
