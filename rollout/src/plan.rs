//! What is an endpoint's rule, and is it a good one?
//!
//! A plan is an immutable revision: who takes part in which role, what makes a key sticky, how the challenger's share
//! grows, and by which tests it is judged. Shares are in millionths, times in milliseconds. Unknown fields are errors.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::{Digest, Error, Result};

/// All of the traffic: shares and sampling rates are in millionths.
pub const MILLION: u32 = 1_000_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// One revision of an endpoint's rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The name that clients call.
    pub endpoint: String,
    /// Counts from 1 and never stands still: each change of a plan is a new revision.
    pub revision: u64,
    /// Who takes part. Challengers' ranges of keys are in this order.
    pub arms: Vec<Arm>,
    /// What makes a request stick to an arm.
    pub key: KeySource,
    /// New for each rollout: who is in one test says nothing of who is in the next.
    pub salt: String,
    /// Requests that pick their arm; the first that matches counts, and none of them is evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
    /// How the challenger's share grows. None: the plan splits traffic, and nobody is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// By what the challenger is judged.
    #[serde(default)]
    pub policy: Policy,
    /// Whether the champion was promoted by a rollout that still watches it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watched: bool,
}

/// One deployment in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name in answers, metrics and evidence.
    pub name: String,
    /// The model's name; arms may be versions of different models.
    pub model: String,
    /// The model's version, from 1.
    pub version: u64,
    /// The deployment's digest, where the plan insists on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What it does.
    pub role: Role,
}

/// What an arm does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// Answers whoever no challenger answers.
    Champion,
    /// Answers a share of the traffic.
    Challenger {
        /// Its share now, in millionths.
        weight: u32,
        /// The share that it may grow to; keys are reserved for it from the start.
        final_weight: u32,
    },
    /// Sees a sample of the traffic; its answers are never returned.
    Shadow {
        /// How much of the traffic it sees, in millionths.
        sampling: u32,
    },
}

/// Where the sticky key of a request is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeySource {
    /// In the HTTP header of this name.
    Header(String),
    /// In the gRPC metadata of this name.
    Metadata(String),
    /// In the JSON body, at this path, such as `$.customer.id`.
    JsonPath(String),
    /// In the input of this name, one key for each row.
    TensorColumn(String),
    /// Whoever sent it, as the server's locks know them.
    ClientIdentity,
    /// Nowhere: each request is on its own.
    PerRequest,
}

/// A request whose header has this value goes to this arm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// The header's or the metadata's name.
    pub header: String,
    /// Its whole value.
    pub value: String,
    /// The name of the arm.
    pub arm: String,
}

/// A stretch of a rollout at one share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The challenger's share, in millionths.
    pub share: u32,
    /// The least time at this share.
    #[serde(default)]
    pub min_time_ms: u64,
    /// The least number of units that the challenger must have seen at this share.
    #[serde(default)]
    pub min_units: u64,
    /// What must be passed before the next step: approvals, webhooks, a backtest, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<String>,
}

/// By what a challenger is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The chance of ever rolling back a challenger that is as good as its champion, over all guardrails. Also the
    /// chance of error of each bound that lets one pass.
    pub alpha_guardrails: f64,
    /// The same of the quality verdict.
    pub alpha_primary: f64,
    /// What must not get worse.
    pub guardrails: Vec<Guardrail>,
    /// The same of slices of the traffic: tested together by e-BH; what is found stops the rollout for a person.
    pub slices: Vec<Guardrail>,
    /// What is compared between champion and shadow.
    pub comparisons: Vec<Comparison>,
    /// The outcome by which the challenger must win, where labels come.
    pub primary: Option<Primary>,
    /// How the answers themselves may shift, where somebody asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// An answer that takes longer than this, in microseconds and from its request's arrival, is an event of [`SLOW_OVER`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_over_us: Option<u64>,
    /// What must be passed before the first share, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_gates: Vec<String>,
    /// The least time as a shadow before the first step.
    pub shadow_time_ms: u64,
    /// The least time with a share before a promotion.
    pub min_time_ms: u64,
    /// The time after which a rollout without a verdict is inconclusive.
    pub max_time_ms: u64,
    /// The least number of units that each arm must have seen before a promotion.
    pub min_units: u64,
    /// What must be passed before the promotion, by name.
    pub gates: Vec<String>,
    /// So many failures of the challenger one after the other end the rollout at once.
    pub failures_max: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            alpha_guardrails: 0.001,
            alpha_primary: 0.01,
            guardrails: vec![Guardrail::new("errors").with_floor(0.001)],
            slices: Vec::new(),
            comparisons: Vec::new(),
            primary: None,
            output: None,
            slow_over_us: None,
            entry_gates: Vec::new(),
            shadow_time_ms: 0,
            min_time_ms: DAY_MS,
            max_time_ms: 14 * DAY_MS,
            min_units: 1_000,
            gates: Vec::new(),
            failures_max: 20,
        }
    }
}

/// The guardrail of answers that take longer than [`Policy::slow_over_us`].
pub const SLOW_OVER: &str = "slow_over";

/// The name of the watched output's bins in evidence blocks.
pub const OUTPUT: &str = "output";

/// How much the answers of both arms may differ in where they fall. It needs no labels, and says nothing of who is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Which output of the model; `None`: its first of numbers with a fraction, or else its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// δ: so much more or less often in a bin, relative to the champion, is not an alarm.
    #[serde(default = "tolerance")]
    pub tolerance: f64,
    /// Whether an alarm rolls back, and does not halt for a person.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub roll_back: bool,
}

/// A kind of event that the challenger must not have more of: errors, answers slower than a cut point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guardrail {
    /// Its name in evidence blocks.
    pub metric: String,
    /// δ: so much more often, relative to the champion, is not an alarm.
    #[serde(default = "tolerance")]
    pub tolerance: f64,
    /// The bound of the ratio minus 1 that must be shown before a promotion.
    #[serde(default = "margin")]
    pub margin: f64,
    /// A share of the challenger's own units so small that it passes whatever the champion's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
}

fn tolerance() -> f64 {
    0.25
}

fn margin() -> f64 {
    0.5
}

impl Guardrail {
    /// One with the defaults: tolerance 0.25, margin 0.5, no floor.
    pub fn new(metric: impl Into<String>) -> Guardrail {
        Guardrail { metric: metric.into(), tolerance: tolerance(), margin: margin(), floor: None }
    }

    /// The same with a floor.
    pub fn with_floor(self, floor: f64) -> Guardrail {
        Guardrail { floor: Some(floor), ..self }
    }
}

/// What pairs of answers must show before the challenger gets a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Its name in evidence blocks.
    pub metric: String,
    /// What is asked of it.
    pub rule: Agreement,
}

/// How much two answers may differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Agreement {
    /// The same model again (exported, quantised, another provider): the share of mismatches is shown to be at most this.
    Refactor(f64),
    /// Another model: the mean difference, 0 to 1, is shown to be at most this.
    Retrain(f64),
    /// It is shown and decides nothing.
    Report,
}

/// The outcome that decides which arm is better. Values are gains: more is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Primary {
    /// Its name in evidence blocks.
    pub metric: String,
    /// How the arms are to be compared.
    pub design: Design,
    /// How an outcome is made of what was answered and of the label that comes later.
    #[serde(default, skip_serializing_if = "Gain::is_value")]
    pub gain: Gain,
    /// The output that the label is held against; `None`: the model's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// From this on, an answer that is one fraction says class 1, and below it class 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// An error of the answer's number counts as this where it is larger, in the label's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Whether what the model says changes the label itself (a blocked payment is never seen to be fraud). No default:
    /// somebody must have thought of it. Where it is true, only a split of live traffic decides.
    pub label_depends_on_decision: bool,
    /// How long after the prediction its label is waited for.
    pub horizon_ms: u64,
    /// What a row without a label counts as when that time is over.
    pub missing: Missing,
    /// How much worse still passes, in the outcome's unit; `None`: the challenger must be better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The least gain that is worth a promotion: once it is excluded, the rollout is futile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least_gain: Option<f64>,
    /// A gain that is shown to be below minus this rolls back, as a guardrail does; `None`: outcomes roll nobody back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harm: Option<f64>,
    /// t*: the number of matured units at which the interval is to be narrowest.
    pub planned_units: u64,
}

/// What an outcome is. More is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    /// The label itself: what was earned, whether it was clicked.
    #[default]
    Value,
    /// 1 where the class that was answered is the label, and 0 where it is not.
    Accuracy,
    /// −|answer − label|, at least −scale.
    AbsoluteError,
    /// −(answer − label)², at least −scale².
    SquaredError,
}

impl Gain {
    fn is_value(&self) -> bool {
        *self == Gain::Value
    }

    fn is_error(self) -> bool {
        matches!(self, Gain::AbsoluteError | Gain::SquaredError)
    }
}

/// How arms are compared by outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Both answer the same row, and the row's label says who was right.
    PairedShadow,
    /// Each row is answered by one arm, by key.
    Split,
}

/// What a row without a label counts as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// As this outcome.
    Value(f64),
    /// As if it had never been seen.
    Exclude,
}

impl Plan {
    /// The champion's index; 0 in a plan that has none.
    pub fn champion(&self) -> usize {
        self.arms.iter().position(|arm| arm.role == Role::Champion).unwrap_or(0)
    }

    /// A salt for who gives none: the same wherever the same versions compete for the same keys, so that replicas agree and a
    /// ramp moves nobody, and another one for the next test. 16 hexadecimal digits.
    pub fn salt_of(endpoint: &str, arms: &[Arm], key: &KeySource) -> String {
        let mut digest = Sha256::new().chain_update(endpoint);
        for Arm { name, model, version, role, .. } in arms.iter().filter(|arm| !matches!(arm.role, Role::Shadow { .. }))
        {
            let part = if *role == Role::Champion { "champion" } else { "challenger" };
            digest.update(format!("\0{part}\0{name}\0{model}\0{version}"));
        }
        digest.update(format!("\0{}", serde_json::to_string(key).unwrap_or_default()));
        digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The arm that a request's headers pick.
    pub fn picked<'a>(&self, header: impl Fn(&str) -> Option<&'a str>) -> Option<usize> {
        let rule = self.headers.iter().find(|rule| header(&rule.header) == Some(&rule.value))?;
        self.arms.iter().position(|arm| arm.name == rule.arm)
    }

    /// The next revision, with every challenger at `share`, or at its final weight where that is less.
    pub fn at_share(&self, share: u32) -> Plan {
        let mut plan = Plan { revision: self.revision + 1, ..self.clone() };
        for arm in &mut plan.arms {
            if let Role::Challenger { weight, final_weight } = &mut arm.role {
                *weight = share.min(*final_weight);
            }
        }
        plan
    }

    /// The canonical form: JSON with sorted keys and no white space.
    pub fn canonical(&self) -> String {
        // A `Value` holds its keys sorted; plans hold nothing that JSON cannot.
        serde_json::to_value(self).map(|value| value.to_string()).unwrap_or_default()
    }

    /// SHA-256 of the [canonical form](Plan::canonical).
    pub fn digest(&self) -> Digest {
        Digest::new(Sha256::digest(self.canonical()).into())
    }

    /// Whether the plan can be carried out. The error says what is wrong and what was expected.
    pub fn validate(&self) -> Result<()> {
        check(!self.endpoint.is_empty(), "endpoint is empty: expected the name that clients call")?;
        check(self.revision > 0, "revision is 0: revisions count from 1")?;
        check(!self.salt.is_empty(), "salt is empty: expected some random text, new for each rollout")?;
        self.validate_arms()?;
        for HeaderRule { header, value, arm } in &self.headers {
            check(!header.is_empty() && !value.is_empty(), "a header rule has no header or no value: both are needed")?;
            let is_known = self.arms.iter().any(|known| known.name == *arm);
            check(is_known, format!("header rule {header}: {value} names arm {arm:?}, which the plan does not have"))?;
        }
        self.validate_steps()?;
        self.policy.validate()
    }

    fn validate_arms(&self) -> Result<()> {
        for (at, Arm { name, model, version, digest, role }) in self.arms.iter().enumerate() {
            check(!name.is_empty(), format!("arm {} has no name", at + 1))?;
            check(!model.is_empty(), format!("arm {name}: model is empty"))?;
            check(*version > 0, format!("arm {name}: version is 0: versions count from 1"))?;
            let is_first = self.arms[..at].iter().all(|other| other.name != *name);
            check(is_first, format!("two arms are called {name}: names must differ"))?;
            if let Some(digest) = digest {
                let parsed = digest.parse::<Digest>();
                check(parsed.is_ok(), format!("arm {name}: digest {digest:?}: expected 64 hexadecimal digits"))?;
            }
            match *role {
                Role::Champion => {}
                Role::Challenger { weight, final_weight } => check(
                    weight <= final_weight && final_weight <= MILLION,
                    format!(
                        "arm {name}: weight {weight}, final weight {final_weight}: expected weight ≤ final weight ≤ 1000000"
                    ),
                )?,
                Role::Shadow { sampling } => check(
                    (1..=MILLION).contains(&sampling),
                    format!("arm {name}: sampling is {sampling}: expected 1 to 1000000 millionths"),
                )?,
            }
        }
        let champions = self.arms.iter().filter(|arm| arm.role == Role::Champion).count();
        check(champions == 1, format!("the plan has {champions} champions: expected exactly one"))?;
        let reserved: u64 = self.challengers().map(|(_, most)| u64::from(most)).sum();
        let message = "the challengers' final weights add up to";
        check(reserved <= MILLION.into(), format!("{message} {reserved}: expected 1000000 millionths at most"))
    }

    /// (weight, final weight) of each challenger.
    fn challengers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.arms.iter().filter_map(|arm| match arm.role {
            Role::Challenger { weight, final_weight } => Some((weight, final_weight)),
            Role::Champion | Role::Shadow { .. } => None,
        })
    }

    fn validate_steps(&self) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let count = self.challengers().count();
        check(count == 1, format!("the plan has steps and {count} challengers: a rollout judges exactly one"))?;
        let most = self.challengers().map(|(_, most)| most).sum();
        let mut before = 0;
        for (at, Step { share, .. }) in self.steps.iter().enumerate() {
            let number = at + 1;
            check(*share > before, format!("step {number}: share {share} is not above {before}: shares must grow"))?;
            check(
                *share <= most,
                format!("step {number}: share {share} is above the challenger's final weight {most}"),
            )?;
            before = *share;
        }
        Ok(())
    }

    /// Whether any arm is one of these versions, by model and number.
    pub fn has_any(&self, versions: &[(String, u64)]) -> bool {
        let is_one = |arm: &Arm| versions.iter().any(|(model, number)| (model, number) == (&arm.model, &arm.version));
        self.arms.iter().any(is_one)
    }

    /// Whether this plan may come after `earlier` in one rollout: no key may change sides but by growing.
    pub fn follows(&self, earlier: &Plan) -> Result<()> {
        check(self.endpoint == earlier.endpoint, "the plan is of another endpoint than the one before it")?;
        check(
            self.revision > earlier.revision,
            format!("revision {} does not come after revision {}", self.revision, earlier.revision),
        )?;
        check(self.salt == earlier.salt, "the salt changed within a rollout, which would deal all keys anew")?;
        check(self.key == earlier.key, "the sticky key changed within a rollout, which would deal all requests anew")?;
        let reserved = |plan: &Plan| plan.challengers().map(|(_, most)| most).collect::<Vec<_>>();
        check(
            reserved(self) == reserved(earlier),
            "the challengers' final weights changed within a rollout, which would move their keys",
        )
    }
}

impl Policy {
    /// How many tests may roll the challenger back: each has its part of `alpha_guardrails`.
    pub(crate) fn alarms(&self) -> usize {
        let by_outcome = self.primary.as_ref().is_some_and(|primary| primary.harm.is_some());
        let by_output = self.output.as_ref().is_some_and(|output| output.roll_back);
        self.guardrails.len() + usize::from(by_outcome) + usize::from(by_output)
    }

    fn validate(&self) -> Result<()> {
        within("policy.alpha_guardrails", self.alpha_guardrails)?;
        within("policy.alpha_primary", self.alpha_primary)?;
        check(!self.guardrails.is_empty(), "policy.guardrails is empty: a rollout needs one at least, such as errors")?;
        check(self.min_time_ms <= self.max_time_ms, "policy.min_time_ms is above policy.max_time_ms")?;
        check(self.failures_max > 0, "policy.failures_max is 0: expected 1 at least")?;
        let watched = self.guardrails.iter().chain(&self.slices);
        for (at, Guardrail { metric, tolerance, margin, floor }) in watched.clone().enumerate() {
            check(!metric.is_empty(), "a guardrail has no metric")?;
            let is_first = watched.clone().take(at).all(|other| other.metric != *metric);
            check(is_first, format!("two guardrails watch {metric}: names must differ"))?;
            for (key, value) in [("tolerance", tolerance), ("margin", margin)] {
                let is_good = (0.0..=10.0).contains(value);
                check(is_good, format!("guardrail {metric}: {key} is {value}: expected 0 to 10, such as 0.25"))?;
            }
            if let Some(floor) = floor {
                within(&format!("guardrail {metric}: floor"), *floor)?;
            }
        }
        let names_slow = self.guardrails.iter().any(|guardrail| guardrail.metric == SLOW_OVER);
        check(
            names_slow == self.slow_over_us.is_some(),
            "policy.slow_over says from when on an answer is slow, and the guardrail slow_over watches that: expected both, or neither",
        )?;
        check(self.slow_over_us != Some(0), "policy.slow_over is 0: expected a time that a good answer keeps within")?;
        if let Some(Output { name, tolerance, .. }) = &self.output {
            check(
                name.as_ref().is_none_or(|name| !name.is_empty()),
                "policy.output.name is empty: expected an output's name",
            )?;
            let is_good = (0.0..=10.0).contains(tolerance);
            check(is_good, format!("policy.output.tolerance is {tolerance}: expected 0 to 10, such as 0.25"))?;
        }
        for Comparison { metric, rule } in &self.comparisons {
            check(!metric.is_empty(), "a comparison has no metric")?;
            if let Agreement::Refactor(bound) | Agreement::Retrain(bound) = rule {
                within(&format!("comparison {metric}: bound"), *bound)?;
            }
        }
        let Some(primary) = &self.primary else { return Ok(()) };
        check(!primary.metric.is_empty(), "policy.primary has no metric")?;
        check(
            primary.planned_units > 0,
            "policy.primary.planned_units is 0: expected how many labels are planned for",
        )?;
        for (key, value) in [("margin", primary.margin), ("least_gain", primary.least_gain), ("harm", primary.harm)] {
            let is_good = value.is_none_or(|value| value.is_finite() && value >= 0.0);
            check(is_good, format!("policy.primary.{key} is {value:?}: expected a number of 0 or more"))?;
        }
        check(
            primary.harm.is_none_or(|harm| harm >= primary.margin.unwrap_or(0.0)),
            "policy.primary.harm is below its margin: what still passes would be rolled back",
        )?;
        primary.validate_gain()?;
        match primary.missing {
            Missing::Value(value) => check(value.is_finite(), "policy.primary.missing is not a finite number"),
            Missing::Exclude => Ok(()),
        }
    }
}

impl Primary {
    /// The largest loss that a row can have, in the outcome's unit: pairs are told as shares of it.
    pub fn loss_max(&self) -> f64 {
        let scale = self.scale.unwrap_or(1.0);
        match self.gain {
            Gain::Value | Gain::Accuracy => 1.0,
            Gain::AbsoluteError => scale,
            Gain::SquaredError => scale * scale,
        }
    }

    fn validate_gain(&self) -> Result<()> {
        let Primary { gain, output, threshold, scale, .. } = self;
        let is_set = output.is_some() || threshold.is_some() || scale.is_some();
        check(
            *gain != Gain::Value || !is_set,
            "policy.primary has an output, a threshold or a scale, and its gain is the label itself: expected gain = \"accuracy\", \
             \"absolute_error\" or \"squared_error\"",
        )?;
        check(
            threshold.is_none_or(|threshold| *gain == Gain::Accuracy && threshold.is_finite()),
            format!("policy.primary.threshold is {threshold:?}: expected a number, and gain = \"accuracy\""),
        )?;
        check(
            gain.is_error() == scale.is_some() && scale.is_none_or(|scale| scale > 0.0 && scale.is_finite()),
            format!(
                "policy.primary.scale is {scale:?}: expected the largest error that counts, in the label's unit, where the gain is an \
                 error, and none elsewhere"
            ),
        )
    }
}

fn within(key: &str, value: f64) -> Result<()> {
    check(value > 0.0 && value < 1.0, format!("{key} is {value}: expected a number between 0 and 1"))
}

fn check(is_good: bool, message: impl Into<String>) -> Result<()> {
    if is_good { Ok(()) } else { Err(Error::invalid(message)) }
}

#[cfg(test)]
pub(crate) mod tests;
