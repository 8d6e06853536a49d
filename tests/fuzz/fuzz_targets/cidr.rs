//! A network that was accepted prints as something that means the same, and holds its own address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::addr::Cidr;

fuzz_target!(|text: &str| {
    if let Ok(net) = text.parse::<Cidr>() {
        assert_eq!(net.to_string().parse::<Cidr>(), Ok(net));
        assert!(net.contains(net.address()));
    }
});
