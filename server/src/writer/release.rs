//! Which versions does nobody need any more, where files are not followed?
//!
//! Where they are, the next look lets go what neither policy nor plan holds. Else nobody looks, and plans come and go.

use super::State;
use crate::catalog::{Catalog, VersionState};
use crate::config::ModelControl;

impl State {
    /// Lets go what was loaded for plans and is needed by none now.
    pub(super) fn release(&mut self) {
        if self.plan.control == ModelControl::Watch || !*self.done.borrow() {
            return;
        }
        let surplus = self.surplus(&self.inference.catalog.load());
        if surplus.is_empty() {
            return;
        }
        let mut catalog = self.catalog();
        let mut retired = Vec::new();
        for (name, number) in surplus {
            let is_held = self.holds(&name);
            let Some(model) = catalog.models.get_mut(&name) else { continue };
            if is_held {
                self.take_out(&name, number, model);
                continue;
            }
            // Its files are there for whoever asks for it.
            tracing::info!(model = name, version = number, "released: no plan needs it any more");
            self.tracked.remove(&(name.clone(), number));
            if let Some(version) = model.versions.get_mut(&number) {
                version.state = VersionState::Unloaded;
                retired.extend(version.deployment.take());
            }
        }
        self.changed = false;
        self.publish(catalog);
        retired.into_iter().for_each(|deployment| self.reaper.retire(deployment));
    }

    /// Versions that are loaded, or wait for that, and are needed neither by a client that asked for their model nor by a plan.
    fn surplus(&self, catalog: &Catalog) -> Vec<(String, u64)> {
        let mut surplus = Vec::new();
        for (name, model) in &catalog.models {
            let planned = self.plans.versions(name);
            let versions = match (self.holds(name), self.wanted.get(name)) {
                (true, None) => continue,
                (true, Some(wanted)) => {
                    let mut wanted = wanted.clone();
                    wanted.hold(planned.clone());
                    wanted.superseded(model)
                }
                (false, _) => model.versions.keys().copied().collect(),
            };
            let is_loaded = |number: &u64| {
                let version = &model.versions[number];
                let is_with_loader =
                    || self.tracked.get(&(name.clone(), *number)).is_some_and(|tracked| tracked.loading);
                version.deployment.is_some() || (version.state == VersionState::Loading && !is_with_loader())
            };
            let versions = versions.into_iter().filter(|number| !planned.contains(number) && is_loaded(number));
            surplus.extend(versions.map(|number| (name.clone(), number)));
        }
        surplus
    }
}
