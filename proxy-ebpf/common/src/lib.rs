//! Layout of everything that crosses the border between the kernel programs and userspace.
//!
//! Only `#[repr(C)]` types of fixed-width integers live here, with explicit padding and byte order in the field's name,
//! and the constants that both sides must agree on. No logic beyond conversions that cannot fail, no allocation, no
//! aya. Maps are typed by these on the kernel side and by their bytes ([`zerocopy`]) in userspace.
#![cfg_attr(not(test), no_std)]

pub mod config;
pub mod counter;
pub mod key;
pub mod map;
pub mod newcomer;
pub mod record;
pub mod value;

/// Version of everything that a pinned map holds: it outlives the process that wrote it.
///
/// Whatever changes the shape of such a map raises it: type, size, a field, one more counter; and so does a number or bit that
/// gets another meaning. Pinned maps of another version are never used, and a process is never taken over by one of another
/// version. `proxy-user/bpf/object/abi-N.txt` has the whole shape of version N, and a test compares.
pub const ABI_VERSION: u32 = 3;

/// Asserts size and alignment at compile time: both sides are built by different compilers' back ends.
macro_rules! layout {
    ($type:ty, $size:expr, $align:expr) => {
        const _: () =
            assert!(core::mem::size_of::<$type>() == $size && core::mem::align_of::<$type>() == $align);
    };
}
pub(crate) use layout;
