//! What the kernel must know, and the steps that take it there.
