//! How long is a plan that was removed kept to be brought back?

use super::*;
use crate::endpoints::file::read;

#[test]
fn a_removed_plan_is_kept_for_a_while() {
    let text = "key = \"per_request\"\n[[arms]]\nname = \"champion\"\nversion = 1\nrole = \"champion\"\n";
    let draft = read(text, Some("risk")).unwrap().plan().unwrap();
    let mut endpoints = Endpoints::default();
    endpoints.add(endpoints.next(&draft).unwrap().unwrap());
    endpoints.remove("risk").unwrap();
    let mut plans = Plans::new(PlanSources { endpoints, ..PlanSources::default() }, Arc::default());
    let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
    assert_eq!(plans.forget_removed(at(10)), Some(REMOVED_KEPT));
    assert_eq!(plans.forget_removed(at(20)), Some(REMOVED_KEPT - Duration::from_secs(10)));
    assert_eq!(plans.versions("risk"), BTreeSet::from([1]));
    // What is brought back and removed again has all of the time again.
    plans.sources.endpoints.point("risk", 1);
    assert_eq!(plans.forget_removed(at(30)), None);
    plans.sources.endpoints.remove("risk").unwrap();
    assert_eq!(plans.forget_removed(at(40)), Some(REMOVED_KEPT));
    assert_eq!(plans.forget_removed(at(40) + REMOVED_KEPT), None);
    assert!(plans.versions("risk").is_empty() && plans.sources.endpoints.back("risk", None).is_err());
}
