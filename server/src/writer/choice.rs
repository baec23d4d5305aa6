//! Which versions of a model are held, and may one take the place of another?

use std::collections::BTreeSet;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::repository::policy::VersionPolicy;

use super::State;
use crate::catalog::{Model, VersionState};

/// The versions of a model that its policy asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Those that are looked at: what is broken may be mended.
    pub(super) all: BTreeSet<u64>,
    /// Those of them that are there for plans alone.
    for_plans: BTreeSet<u64>,
    /// Those that must be ready before others may leave.
    required: BTreeSet<u64>,
}

impl Wanted {
    /// Chooses among the versions that exist. Of the latest, those that are known to fail do not count: a broken version must
    /// not push a good one out.
    pub(super) fn choose(policy: &VersionPolicy, existing: &BTreeSet<u64>, fails: impl Fn(u64) -> bool) -> Wanted {
        let VersionPolicy::Latest(count) = policy else {
            let all = policy.choose(existing);
            return Wanted { required: all.clone(), all, ..Wanted::default() };
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

    /// Holds these for plans, and none that was held for plans before. Nobody else waits for them.
    pub(super) fn hold(&mut self, versions: BTreeSet<u64>) {
        let before = std::mem::take(&mut self.for_plans);
        self.all.retain(|number| !before.contains(number));
        self.for_plans = &versions - &self.all;
        self.all.extend(versions);
    }

    /// Whether the policy asks for it.
    pub(super) fn chooses(&self, number: u64) -> bool {
        self.all.contains(&number) && !self.for_plans.contains(&number)
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
/// would not, or its owner wants it so. It replaces what has its number, or else the next lower version that answers, those
/// aside that are there for plans and have no clients of their own.
pub(super) fn incompatible(model: &Model, new: &Deployment, is_for_plans: impl Fn(u64) -> bool) -> Option<String> {
    let number = new.identity.version;
    let up_to = model.versions.range(..=number).rev();
    let mut replaced = up_to.filter(|(other, _)| **other == number || !is_for_plans(**other));
    let old = replaced.find_map(|(_, version)| version.deployment.as_deref())?;
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

impl State {
    /// Why other bytes under the number of a version that answers may not take its place, which is said; `None` where they may,
    /// or are the same.
    pub(super) fn refuse_other_bytes(&self, old: &Deployment, new: &Deployment) -> Option<String> {
        if old.identity.digest == new.identity.digest {
            return None;
        }
        let reason = match self.plan.following.strict {
            true => "new bytes under an old version are refused (--strict)".to_owned(),
            false => self.plans.refuse_other(old)?,
        };
        let (model, version) = (&old.identity.model, old.identity.version);
        let (old, new) = (old.identity.artifact.short(), new.identity.artifact.short());
        tracing::error!(model, version, old, new, "{reason}");
        Some(reason)
    }

    /// Has bytes that were refused looked at again, since what they were refused for may be over.
    pub(super) fn retry_refused(&mut self) {
        if !self.plan.following.strict {
            let refused = self.tracked.values_mut().filter(|tracked| tracked.trouble.is_some());
            refused.for_each(|tracked| tracked.tried = None);
        }
    }
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
    fn plans_hold_versions_beside_those_of_the_policy() {
        let mut wanted = Wanted::choose(&"latest:2".parse().unwrap(), &BTreeSet::from([1, 2, 3, 4]), |_| false);
        wanted.hold(BTreeSet::from([1, 3]));
        assert_eq!(
            (wanted.all.clone(), wanted.chooses(3), wanted.chooses(1)),
            (BTreeSet::from([1, 3, 4]), true, false)
        );
        wanted.hold(BTreeSet::from([2]));
        assert_eq!((wanted.all, wanted.for_plans), (BTreeSet::from([2, 3, 4]), BTreeSet::from([2])));
    }

    #[test]
    fn a_version_is_held_against_those_that_have_clients() {
        use crate::route::tests::deployment;
        use tiltyard_types::DataType::{Fp32, Int64};
        let mut model = Model::default();
        for (number, dtype) in [(1, Int64), (2, Fp32)] {
            let ready = Version::new(VersionState::Ready, Some(deployment("m", number, dtype)));
            model.versions.insert(number, ready);
        }
        let breaks = |number, dtype, planned: &[u64]| {
            incompatible(&model, &deployment("m", number, dtype), |number| planned.contains(&number))
        };
        assert!(breaks(3, Int64, &[]).unwrap().contains("clients of version 2 would stumble over it"));
        assert!(breaks(3, Int64, &[2]).is_none() && breaks(3, Fp32, &[2]).unwrap().contains("clients of version 1"));
        assert!(breaks(3, Int64, &[1, 2]).is_none());
        assert!(breaks(2, Int64, &[1, 2]).unwrap().contains("clients of version 2"), "new bytes under its own number");
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
