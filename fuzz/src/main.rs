//! What does libFuzzer make of the decoder that `TILTYARD_FUZZ` names?
#![no_main]

mod decoders;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static READ: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("TILTYARD_FUZZ").unwrap_or_default();
        let decoder = decoders::DECODERS.iter().find(|decoder| decoder.name == name);
        let names: Vec<&str> = decoders::DECODERS.iter().map(|decoder| decoder.name).collect();
        let decoder = decoder.unwrap_or_else(|| panic!("TILTYARD_FUZZ is {name:?}: expected one of {names:?}"));
        READ.get_or_init(|| decoder.read);
    },
    |data: &[u8]| {
        if let Some(read) = READ.get() {
            read(data);
        }
    }
);
