//! Any text is either a configuration or a list of mistakes; a configuration reads back equal from its own dump.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_user::config;

fuzz_target!(|text: &str| {
    match config::parse("fuzz", text) {
        Ok(config) => {
            let dump = config.to_json().to_string();
            assert_eq!(config::parse("dump", &dump).expect("a dump is valid"), config);
        }
        Err(errors) => {
            assert!(errors.count() > 0);
            assert!(!errors.to_string().is_empty());
        }
    }
});
