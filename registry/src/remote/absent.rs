//! What is there of a log in a database in a program that was built without the feature `sql`? Nothing that can be reached.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::entry::{Entry, Head};
use crate::letter::{Letter, Replica, Taken};
use crate::log::Draft;
use crate::reader::Entries;
use crate::{Error, Result};

/// Where a database is: nowhere.
#[derive(Clone, Debug)]
pub enum Address {}

impl Address {
    /// Fails: this program knows no database.
    pub fn parse(_url: &str, _password: Option<&str>) -> Result<Address> {
        Err(Error::Unfit("this program was built without Postgres: expected one with the feature record".to_owned()))
    }

    /// The same.
    #[must_use]
    pub fn patience(self, _patience: Duration) -> Address {
        match self {}
    }
}

impl fmt::Display for Address {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// A log in a database.
#[derive(Clone, Debug)]
pub struct Remote(Address);

/// Pages of its entries.
#[derive(Debug)]
pub(crate) struct Pages(Address);

impl Pages {
    pub(crate) fn next(&mut self, _: Option<Head>) -> Result<Option<Entry>> {
        match self.0 {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Remote {
    pub(crate) fn connect(address: &Address) -> Result<Remote> {
        match *address {}
    }

    pub(crate) fn head(&self) -> Head {
        match self.0 {}
    }

    pub(crate) fn entries(&self, _: u64) -> Result<Entries> {
        match self.0 {}
    }

    pub(crate) fn record(&self, _: &[Draft]) -> Result<Head> {
        match self.0 {}
    }

    pub fn address(&self) -> &Address {
        &self.0
    }

    pub fn entries_after(&self, _: Head) -> Result<Vec<Entry>> {
        match self.0 {}
    }

    pub fn record_after(&self, _: Head, _: &[Draft], _: Option<&Taken>) -> Result<Head> {
        match self.0 {}
    }

    pub fn leads(&self) -> Result<Option<u64>> {
        match self.0 {}
    }

    pub fn reach(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn send(&self, _: &[Letter], _: Option<u64>) -> Result<()> {
        match self.0 {}
    }

    pub fn collect(&self, _: &[String], _: &Taken) -> Result<Vec<Letter>> {
        match self.0 {}
    }

    pub fn tidy(&self, _: &BTreeMap<String, u64>, _: u64) -> Result<()> {
        match self.0 {}
    }

    pub fn report(&self, _: &str, _: &str, _: u64) -> Result<Vec<Replica>> {
        match self.0 {}
    }
}
