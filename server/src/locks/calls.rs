//! Which role may do what? The one table, for REST, gRPC and the admin port alike.

use std::fmt;

use tiltyard_registry::book::How;
use tiltyard_types::{Error, ErrorKind, Result};

use crate::config::OpenCall;

/// What a caller is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks at everything, changes and asks nothing.
    Viewer,
    /// Asks models.
    Scorer,
    /// Loads and unloads models.
    Deployer,
    /// Says yes or no to what others want to put in place.
    Approver,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles by their names.
    pub const ALL: [(&'static str, Role); 5] = [
        ("viewer", Role::Viewer),
        ("scorer", Role::Scorer),
        ("deployer", Role::Deployer),
        ("approver", Role::Approver),
        ("admin", Role::Admin),
    ];

    fn name(self) -> &'static str {
        Role::ALL.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

/// What a request asks for, as far as permission goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// Whether the server is up and ready.
    Health,
    /// Figures for Prometheus.
    Metrics,
    /// The pages for people, which name models and their inputs.
    Docs,
    /// About the server itself: its name, its protocols. Also whatever is nothing at all, which is then told as such.
    Server,
    /// Every model: the index, all figures.
    SeeAll,
    /// One model: its inputs, its figures, whether it is ready.
    See(&'a str),
    /// Ask one model.
    Score(&'a str),
    /// Say what became of rows that models answered: of which, is asked again with [`Call::Score`].
    Feedback,
    /// Load or unload one model.
    Deploy(&'a str),
    /// Say which versions answer for one name.
    Plan(&'a str),
    /// Answer for a gate of one name's rollout.
    Approve(&'a str),
    /// How the server logs and traces.
    SeeSettings,
    /// Change that.
    ChangeSettings,
}

use Role::{Admin, Approver, Deployer, Scorer, Viewer};

impl<'a> Call<'a> {
    /// The roles of which one is enough.
    const fn roles(self) -> &'static [Role] {
        match self {
            Call::Health | Call::Server => &[Viewer, Scorer, Deployer, Approver, Admin],
            Call::Metrics | Call::Docs | Call::SeeAll | Call::SeeSettings => &[Viewer, Deployer, Approver, Admin],
            Call::See(_) => &[Viewer, Scorer, Deployer, Approver, Admin],
            Call::Score(_) | Call::Feedback => &[Scorer, Admin],
            Call::Deploy(_) | Call::Plan(_) => &[Deployer, Admin],
            Call::Approve(_) => &[Approver, Admin],
            Call::ChangeSettings => &[Admin],
        }
    }

    /// How far a role must reach.
    const fn reach(self) -> Reach<'a> {
        match self {
            Call::See(name) | Call::Score(name) | Call::Deploy(name) | Call::Plan(name) | Call::Approve(name) => {
                Reach::Model(name)
            }
            Call::Health | Call::Server | Call::Feedback => Reach::Nothing,
            Call::Metrics | Call::Docs | Call::SeeAll | Call::SeeSettings | Call::ChangeSettings => Reach::Everything,
        }
    }

    /// The name under which it may be open to everybody.
    pub(super) const fn open_name(self) -> Option<OpenCall> {
        match self {
            Call::Health => Some(OpenCall::Health),
            Call::Metrics => Some(OpenCall::Metrics),
            Call::Docs => Some(OpenCall::Docs),
            Call::Server | Call::SeeAll | Call::See(_) | Call::Score(_) | Call::Deploy(_) => None,
            Call::Plan(_) | Call::Approve(_) | Call::Feedback => None,
            Call::SeeSettings | Call::ChangeSettings => None,
        }
    }

    /// Whether somebody may want to know afterwards who did it.
    const fn is_change(self) -> bool {
        matches!(self, Call::Deploy(_) | Call::Plan(_) | Call::Approve(_) | Call::ChangeSettings)
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Health => f.write_str("asking for health"),
            Call::Metrics => f.write_str("reading metrics"),
            Call::Docs => f.write_str("reading the docs"),
            Call::Server => f.write_str("asking about the server"),
            Call::SeeAll => f.write_str("looking at all models"),
            Call::See(model) => write!(f, "looking at model {model:?}"),
            Call::Score(model) => write!(f, "asking model {model:?}"),
            Call::Feedback => f.write_str("sending feedback"),
            Call::Deploy(model) => write!(f, "changing versions of model {model:?}"),
            Call::Plan(endpoint) => write!(f, "changing the plan of endpoint {endpoint:?}"),
            Call::Approve(endpoint) => write!(f, "saying yes or no to what is wanted of {endpoint:?}"),
            Call::SeeSettings => f.write_str("looking at settings"),
            Call::ChangeSettings => f.write_str("changing settings"),
        }
    }
}

enum Reach<'a> {
    Nothing,
    Model(&'a str),
    Everything,
}

/// A role, for all models or for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// To which models: names, or beginnings of names with `*` behind them. Empty for all.
    pub models: Vec<String>,
}

impl Grant {
    fn allows(&self, call: Call<'_>) -> bool {
        call.roles().contains(&self.role)
            && match call.reach() {
                Reach::Nothing => true,
                Reach::Everything => self.models.is_empty(),
                Reach::Model(model) => self.models.is_empty() || self.models.iter().any(|name| covers(name, model)),
            }
    }
}

fn covers(pattern: &str, model: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => model.starts_with(beginning),
        None => pattern == model,
    }
}

/// Somebody whose credentials were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is, for the log.
    pub name: String,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// How it proved who it is.
    pub how: How,
}

impl Caller {
    /// The names of its roles, of those that are for a model where one is meant.
    pub fn roles_for(&self, model: Option<&str>) -> Vec<&'static str> {
        let reaches = |grant: &&Grant| {
            grant.models.is_empty() || model.is_some_and(|model| grant.models.iter().any(|name| covers(name, model)))
        };
        let mut roles: Vec<&str> = self.grants.iter().filter(reaches).map(|grant| grant.role.name()).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// Fails with FORBIDDEN, saying which role is missing, whether or not the model exists.
    pub fn may(&self, call: Call<'_>) -> Result<()> {
        if self.grants.iter().any(|grant| grant.allows(call)) {
            if call.is_change() {
                tracing::info!(caller = self.name, %call, "allowed");
            }
            return Ok(());
        }
        let roles: Vec<&str> = call.roles().iter().map(|role| role.name()).collect();
        let reach = match call.reach() {
            Reach::Model(_) => " for it",
            Reach::Everything => " for all models",
            Reach::Nothing => "",
        };
        let message = format!("{call} takes one of the roles {}{reach}; {:?} has none", roles.join(", "), self.name);
        Err(Error::new(ErrorKind::Forbidden, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Call<'_>; 13] = [
        Call::Health,
        Call::Metrics,
        Call::Docs,
        Call::Server,
        Call::SeeAll,
        Call::See("risk"),
        Call::Score("risk"),
        Call::Feedback,
        Call::Deploy("risk"),
        Call::Plan("risk"),
        Call::Approve("risk"),
        Call::SeeSettings,
        Call::ChangeSettings,
    ];

    fn caller(role: Role, models: &[&str]) -> Caller {
        let models = models.iter().map(|name| (*name).to_owned()).collect();
        Caller { name: "ada".to_owned(), grants: vec![Grant { role, models }], how: How::Key }
    }

    /// One letter for each call, in the order of the list; a point for what is refused.
    fn allowed(caller: &Caller) -> String {
        let letter = |(call, letter): (&Call<'_>, char)| if caller.may(*call).is_ok() { letter } else { '.' };
        CALLS.iter().zip("HMDSAsifdpavc".chars()).map(letter).collect()
    }

    #[test]
    fn the_table() {
        let check = |role, models: &[&str], expected: &str| {
            assert_eq!(allowed(&caller(role, models)), expected, "{role:?} {models:?}");
        };
        check(Role::Viewer, &[], "HMDSAs.....v.");
        check(Role::Scorer, &[], "H..S.sif.....");
        check(Role::Deployer, &[], "HMDSAs..dp.v.");
        check(Role::Approver, &[], "HMDSAs....av.");
        check(Role::Admin, &[], "HMDSAsifdpavc");
        check(Role::Viewer, &["risk"], "H..S.s.......");
        check(Role::Scorer, &["risk"], "H..S.sif.....");
        check(Role::Scorer, &["ri*"], "H..S.sif.....");
        check(Role::Scorer, &["digits"], "H..S...f.....");
        check(Role::Deployer, &["digits", "risk"], "H..S.s..dp...");
        check(Role::Admin, &["risk"], "H..S.sifdpa..");
        assert_eq!(allowed(&Caller { name: "nobody".to_owned(), grants: Vec::new(), how: How::Key }), ".............");
    }

    #[test]
    fn a_name_is_no_beginning() {
        assert!(covers("risk", "risk") && !covers("risk", "risk2") && covers("risk*", "risk2") && covers("*", "x"));
        assert!(!covers("risk", "RISK"));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let refused = |call| caller(Role::Scorer, &["risk"]).may(call).unwrap_err().message().to_owned();
        assert_eq!(
            refused(Call::Score("digits")),
            "asking model \"digits\" takes one of the roles scorer, admin for it; \"ada\" has none"
        );
        assert_eq!(
            refused(Call::ChangeSettings),
            "changing settings takes one of the roles admin for all models; \"ada\" has none"
        );
    }
}
