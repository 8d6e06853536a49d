//! Any bytes are the answer to a health check of gRPC or are not, and what stands behind a field that is not known counts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::grpc::{Serving, decode_check};

fuzz_target!(|bytes: &[u8]| {
    let whole = decode_check(bytes);
    let length = u32::try_from(bytes.len()).expect("inputs are short");
    let message = [&[0][..], &length.to_be_bytes(), bytes].concat();
    if decode_check(&message).is_ok() {
        let last = [&[0][..], &(length + 2).to_be_bytes(), bytes, &[8, 1]].concat();
        assert_eq!(decode_check(&last), Ok(Serving::Yes), "the last one counts");
    }
    if whole.is_ok() {
        assert_eq!(bytes[0], 0, "nothing compressed is read");
    }
});
