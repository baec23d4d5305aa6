//! What do replicas hand each other beside the log, and what is known of them?

use std::collections::BTreeMap;

/// Something that a replica hands to the one that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// What it is about.
    pub topic: String,
    /// The process that sent it.
    pub sender: String,
    /// Counts up, for each topic and sender.
    pub number: u64,
    /// What it says.
    pub body: Vec<u8>,
}

/// Letters that were read: by topic and sender, up to which number.
pub type Taken = BTreeMap<(String, String), u64>;

/// A replica that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// What people call it.
    pub name: String,
    /// How many milliseconds ago it was heard.
    pub silent_ms: u64,
    /// The last entry that it had read then.
    pub sequence: u64,
    /// Whether it led.
    pub leads: bool,
}
