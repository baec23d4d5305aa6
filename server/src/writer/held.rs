//! Which versions wait for others, though they are loaded?
//!
//! Which comes first must not depend on luck: a new version is held against the one before it.

use super::State;
use super::loading::LoadedVersion;

impl State {
    /// Takes a loader's result in, and those that waited for it, lower versions first. True if another look is due.
    pub(super) fn finish_load(&mut self, loaded: LoadedVersion) -> bool {
        self.held.push(loaded);
        self.held.sort_by(|a, b| (&a.model, a.number).cmp(&(&b.model, b.number)));
        self.take_in_held()
    }

    /// Takes in what waits for nobody any more. True if another look is due.
    pub(super) fn take_in_held(&mut self) -> bool {
        let mut look_again = false;
        while let Some(position) = self.held.iter().position(|held| !self.waits_for_lower(held)) {
            let loaded = self.held.remove(position);
            look_again |= self.take_in(loaded);
        }
        look_again
    }

    /// Whether a lower version of the model is still being loaded.
    fn waits_for_lower(&self, loaded: &LoadedVersion) -> bool {
        let lower = (loaded.model.clone(), 0)..(loaded.model.clone(), loaded.number);
        self.tracked.range(lower).any(|(_, tracked)| tracked.loading)
    }
}
