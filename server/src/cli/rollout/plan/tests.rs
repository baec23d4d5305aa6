//! Are plans of people read as they meant them, and is what is told beforehand readable?

use super::*;

fn told(line: &str) -> Result<(Plan, Told), String> {
    let line = format!("plan --preview {line}");
    let matches = command().try_get_matches_from(line.split_whitespace()).map_err(|error| error.to_string())?;
    let mut plan = example();
    if let Some(steps) = matches.get_one::<Vec<Step>>("steps") {
        plan.steps.clone_from(steps);
    }
    let told = Told::of(&plan, &matches).map_err(|failure| failure.to_string())?;
    Ok((plan, told))
}

#[test]
fn a_preview_as_a_table() {
    let (plan, told) = told("--rate 100 --errors 0.5% --steps 1%/10m,50%/1h").expect("a preview");
    let listing = told.listing(&plan);
    let lines: Vec<&str> = listing.lines().collect();
    assert_eq!(
        lines[..4],
        ["STEP    SHARE  BEGINS AFTER", "1       1%     0s", "2       50%    10m0s", "baking  -      1h10m",]
    );
    assert_eq!(lines[4], "GUARDRAIL  RATE  2X IS ROLLED BACK AFTER  TOO MANY BY THEN  AS GOOD PASSES AFTER");
    assert!(lines[5].starts_with("errors     0.5%  1"), "{listing}");
    assert_eq!(lines[6], "A challenger that is as good is promoted after 1d0h.", "the least time is what it waits for");
}

#[test]
fn programs_get_the_same() {
    let (_, rare) = told("--rate 0.001 --effect 1.5").expect("a preview");
    let form = rare.form();
    assert_eq!(form["forecast"]["promotion_ms"], Value::Null);
    assert_eq!((&form["traffic"]["effect"], &form["labels"]), (&json!(1.5), &Value::Null));
    let (_, pairs) = told("--rate 50 --gain 0.01 --disagreement 4%").expect("a preview");
    let needed = pairs.form()["labels"]["needed"].as_u64().expect("it can be told");
    assert!((3_800..4_700).contains(&needed), "docs/statistics.md has 4,200, not {needed}");
    let (plan, split) = told("--rate 50 --gain 0.01 --sd 0.3").expect("a preview");
    assert!(split.listing(&plan).contains("One that is better by 0.01 has won after "), "{}", split.listing(&plan));
}

#[test]
fn what_cannot_be_told_is_refused_with_a_reason() {
    let check = |line: &str, expected: &str| {
        let error = told(line).map(|_| ()).expect_err(expected);
        assert!(error.contains(expected), "{line}: {error}");
    };
    check("--rate 0", "expected a number above 0");
    check("--rate 1 --errors 100%", "expected a share below 1");
    check("--rate 1 --effect 1", "expected a number above 1");
    check("--rate 1 --event slow=1%", "no guardrail watches slow: expected one of errors");
    check("--rate 1 --steps 1%/soon", "such as 1%/10m,5%/1h");
    check("--rate 1 --gain 0.01", "--gain needs --disagreement SHARE");
    check("--rate 1 --gain 0.1 --disagreement 1%", "is above --disagreement");
    check("--rate 1 --gain 0.1 --sd 1 --steps 100%", "leaves the champion nothing");
}

#[test]
fn a_plan_is_read_from_either_form_and_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plan");
    let read_text = |text: &str| {
        fs::write(&path, text).expect("a file");
        read(&path).map_err(|failure| failure.to_string())
    };
    let plan = example();
    assert_eq!(read_text(&plan.canonical()), Ok(plan));
    let toml = r#"
        endpoint = "risk"
        revision = 3
        key = { header = "x-user" }
        salt = "7f0c1d"
        arms = [
            { name = "champion", model = "risk", version = 1, role = "champion" },
            { name = "challenger", model = "risk", version = 2, role.challenger = { weight = 0, final_weight = 500000 } },
        ]
        steps = [{ share = 10000, min_time_ms = 600000 }]
    "#;
    let plan = read_text(toml).expect("a good plan");
    let listing = listing(&plan);
    assert!(listing.starts_with("The plan of risk, revision 3, digest "), "{listing}");
    assert!(listing.contains("challenger  risk@2   challenger  0%, up to 50%\n"), "{listing}");
    let refused = |text: Result<Plan, String>, expected: &str| {
        let error = text.expect_err(expected);
        assert!(error.contains(expected), "{error}");
    };
    refused(read_text(&toml.replace("salt", "slat")), "unknown field `slat`");
    refused(read_text(&toml.replace("share = 10000", "share = 600000")), "is above the challenger's final weight");
}
