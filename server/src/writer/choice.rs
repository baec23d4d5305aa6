//! Which versions of a model are held, and may one take the place of another?

use std::collections::BTreeSet;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::repository::policy::VersionPolicy;

use crate::catalog::{Model, VersionState};

/// The versions of a model that its policy asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Those that are looked at: what is broken may be mended.
    pub(super) all: BTreeSet<u64>,
    /// Those that must be ready before others may leave.
    required: BTreeSet<u64>,
}

impl Wanted {
    /// Chooses among the versions that exist. Of the latest, those that are known to fail do not count: a broken version must
    /// not push a good one out.
    pub(super) fn choose(policy: &VersionPolicy, existing: &BTreeSet<u64>, fails: impl Fn(u64) -> bool) -> Wanted {
        let VersionPolicy::Latest(count) = policy else {
            let all = policy.choose(existing);
            return Wanted { required: all.clone(), all };
        };
        let mut wanted = Wanted::default();
        for &number in existing.iter().rev() {
            if wanted.required.len() == *count {
                break;
            }
            wanted.all.insert(number);
            if !fails(number) {
                wanted.required.insert(number);
            }
        }
        wanted
    }

    /// Holds these as well, which nobody else waits for.
    pub(super) fn hold(&mut self, versions: impl IntoIterator<Item = u64>) {
        self.all.extend(versions);
    }

    /// The versions of the model that may leave, since all that must be ready are.
    pub(super) fn superseded(&self, model: &Model) -> Vec<u64> {
        let ready =
            |number: &u64| model.versions.get(number).is_some_and(|version| version.state == VersionState::Ready);
        if self.required.is_empty() || !self.required.iter().all(ready) {
            return Vec::new();
        }
        model.versions.keys().filter(|number| !self.all.contains(number)).copied().collect()
    }
}

/// Why the clients of whom it would replace would stumble over a new deployment, and what to do about it; `None` where they
/// would not, or its owner wants it so. It replaces what has its number, or else the next lower version that answers.
pub(super) fn incompatible(model: &Model, new: &Deployment) -> Option<String> {
    let number = new.identity.version;
    let mut up_to = model.versions.range(..=number).rev();
    let old = up_to.find_map(|(_, version)| version.deployment.as_deref())?;
    let breaks = old.signature.breaks_with(&new.signature);
    if breaks.is_empty() || new.settings.accept_incompatible {
        return None;
    }
    Some(format!(
        "clients of version {} would stumble over it: {}. If they are ready for it, set accept_incompatible = true in \
         model.toml, or load it with the parameter accept_incompatible",
        old.identity.version,
        breaks.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Version;

    #[track_caller]
    fn check(policy: &str, existing: &[u64], failing: &[u64], all: &[u64], leaving: &[u64]) {
        let policy = policy.parse().unwrap();
        let wanted = Wanted::choose(&policy, &existing.iter().copied().collect(), |number| failing.contains(&number));
        assert_eq!(wanted.all.iter().copied().collect::<Vec<_>>(), all);
        let mut model = Model::default();
        for &number in existing {
            let state = match failing.contains(&number) {
                true => VersionState::Failed("no".to_owned()),
                false => VersionState::Ready,
            };
            model.versions.insert(number, Version::new(state, None));
        }
        assert_eq!(wanted.superseded(&model), leaving);
        // One that is not ready yet holds all of them back.
        for number in &wanted.required {
            let mut model = model.clone();
            model.versions.entry(*number).and_modify(|version| version.state = VersionState::Loading);
            assert_eq!(wanted.superseded(&model), [0; 0]);
        }
    }

    #[test]
    fn a_broken_version_pushes_no_good_one_out() {
        check("latest:2", &[1, 2, 3], &[], &[2, 3], &[1]);
        check("latest:2", &[1, 2, 3], &[3], &[1, 2, 3], &[]);
        check("latest:2", &[1, 2, 3, 4], &[3], &[2, 3, 4], &[1]);
        check("latest:1", &[1, 2], &[2], &[1, 2], &[]);
        check("latest:2", &[3], &[3], &[3], &[]);
        check("all", &[1, 2], &[1], &[1, 2], &[]);
        check("2,3", &[1, 2, 3], &[3], &[2, 3], &[]);
        check("2,3", &[1, 2, 3], &[], &[2, 3], &[1]);
    }
}
