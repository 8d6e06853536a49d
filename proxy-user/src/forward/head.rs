//! A request's head, whichever version of HTTP it came in.

/// What routing, the log and a policy ask of a head.
pub trait Head {
    /// Method, as it came.
    fn method(&self) -> &str;
    /// Host that is asked for, with its port, as it came; empty if there is none.
    fn host(&self) -> &str;
    /// Path; `*` for a server as a whole; empty for CONNECT.
    fn path(&self) -> &str;
    /// What stands behind the `?`; empty if there is none.
    fn query(&self) -> &str;
    /// Path and query as they came.
    fn path_and_query(&self) -> &str;
    /// Value of the first field of this name, which is in lower case.
    fn find(&self, name: &str) -> Option<&[u8]>;
    /// Values of all fields of this name, which is in lower case.
    fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
    /// Version for the log, as `1.1`.
    fn version(&self) -> &'static str;
}
