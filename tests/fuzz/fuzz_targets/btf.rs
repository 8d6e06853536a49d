//! Any bytes are either BTF or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_bpf::btf::TcpOffsets;

fuzz_target!(|bytes: &[u8]| {
    let _ = TcpOffsets::from_btf(bytes);
});
