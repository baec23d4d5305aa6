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
fn a_file_is_read_in_either_form_and_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("risk.toml");
    let read_text = |text: &str| {
        fs::write(&path, text).expect("a file");
        read(&path).map_err(|failure| failure.to_string())
    };
    let toml = r#"
        key = { header = "x-user" }
        champion = { version = 1 }
        challenger = { version = 2 }
        steps = [{ share = "1%", min_time = "10m" }, { share = "50%", gates = ["ada"] }]
        policy = { min_time = "48h", guardrails = [{ metric = "errors" }] }
    "#;
    let (written, plan) = read_text(toml).expect("a good file");
    assert_eq!(
        listing(&plan, &written),
        "The rollout of risk is good: risk@2 against risk@1, key: header or metadata x-user.\n\
         STEP       SHARE  LEAST TIME  LEAST UNITS  GATES\n\
         1          1%     10m0s       0            -\n\
         2          50%    0s          0            ada\n\
         promotion  100%   2d0h        1000         -\n\
         Guardrails: errors.\n"
    );
    let (written, plan) = read_text(r#"{"steps": [{"share": "5%"}]}"#).expect("a part of one");
    assert!(
        listing(&plan, &written).starts_with("The rollout of risk is good: whoever is named against whoever answers, ")
    );
    let form = form(&plan, Some(&written));
    assert_eq!((&form["champion"], &form["steps"][0]["share"]), (&Value::Null, &json!(50_000)));
    let refused = |text: &str, expected: &str| {
        let error = read_text(text).expect_err(expected);
        assert!(error.contains("risk.toml: ") && error.contains(expected), "{error}");
    };
    refused(&toml.replace("steps", "stpes"), "did you mean steps?");
    refused(&toml.replace("50%", "0.5%"), "shares must grow");
    refused(&toml.replace("48h", "soon"), "expected a time such as");
}
