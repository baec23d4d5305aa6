//! How does it go with the labels that come late?

use super::labels_of;
use super::page::{Page, escape};
use crate::rollouts::feedback::figures::{Tally, Who};
use crate::rollouts::feedback::{Feedback, Heard};

/// Writes what was said of rows, and what came of it. Nothing where nobody ever waited for labels.
pub(super) fn families(page: &mut Page, feedback: &Feedback) {
    let (heard, arms, desks) = (feedback.figures.all_heard(), feedback.figures.arms(), feedback.desks());
    if heard.is_empty() && desks.is_empty() {
        return;
    }
    let name = "tiltyard_feedback_total";
    page.family(name, "counter", "What was said of rows that were answered, by what became of it.");
    for (endpoint, counts) in &heard {
        for ((outcome, _), count) in Heard::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let labels = format!("endpoint=\"{}\",outcome=\"{outcome}\"", escape(endpoint));
            page.sample(name, &labels, *count as f64);
        }
    }
    type Pick = fn(&Tally) -> f64;
    let counters: [(&str, &str, Pick); 2] = [
        ("tiltyard_feedback_labels_total", "Labels that were joined to rows.", |tally| tally.labels as f64),
        ("tiltyard_feedback_units_total", "Units whose outcome counts: their labels are final.", |tally| {
            tally.units as f64
        }),
    ];
    for (name, help, pick) in counters {
        page.family(name, "counter", help);
        arms.iter().for_each(|(who, tally)| page.sample(name, &labels(who), pick(tally)));
    }
    let name = "tiltyard_feedback_outcome_mean";
    page.family(name, "gauge", "The mean outcome of the units that count.");
    for (who, tally) in arms.iter().filter(|(_, tally)| tally.units > 0) {
        page.sample(name, &labels(who), tally.outcomes / tally.units as f64);
    }
    let name = "tiltyard_feedback_rows";
    page.family(name, "gauge", "Rows in memory that labels may still come for, or came too late for.");
    for (endpoint, desk) in desks.iter() {
        page.sample(name, &format!("endpoint=\"{}\"", escape(endpoint)), desk.rows() as f64);
    }
}

fn labels(who: &Who) -> String {
    labels_of(&who.endpoint, &who.model, &who.version, &who.arm)
}
