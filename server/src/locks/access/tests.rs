//! Are callers known by what they show, and only by that?

use http::header::HeaderValue;

use super::*;

fn access(text: &str) -> Access {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let config = Config { access_file: Some(file.path().to_owned()), ..Config::default() };
    Access::open(&config).unwrap().unwrap()
}

fn list(token: &str) -> String {
    format!("token app scorer:risk sha256:{}\ncertificate spiffe://prod/ci deployer\n", Digest::of(token))
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn tokens_open_doors_and_others_do_not() {
    let (token, _) = crate::locks::secret::new().unwrap();
    let access = access(&list(&token));
    let check = |values: &[String], expected: std::result::Result<&str, &str>| {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        match (access.who(&headers(&values), None), expected) {
            (Ok(caller), Ok(name)) => assert_eq!(caller.name, name),
            (Err(error), Err(part)) => {
                assert_eq!(error.kind(), ErrorKind::Unauthenticated);
                assert!(error.message().contains(part), "{error}");
                assert!(!error.message().contains(&token[10..]), "the token is told");
            }
            (found, _) => panic!("{values:?}: {found:?}"),
        }
    };
    check(&[format!("Bearer {token}")], Ok("app"));
    check(&[format!("bearer  {token} ")], Ok("app"));
    check(&[], Err("needs credentials"));
    check(&[format!("Bearer {token}x")], Err("not known"));
    check(&[format!("Bearer {}", &token[..token.len() - 1])], Err("not known"));
    check(&["Bearer ".to_owned()], Err("not known"));
    check(&["Bearer a.b.c".to_owned()], Err("not known"));
    check(std::slice::from_ref(&token), Err("must be: Bearer"));
    check(&[format!("Basic {token}")], Err("must be: Bearer"));
    check(&[format!("Bearer {token}"), format!("Bearer {token}")], Err("more than one"));
}

#[test]
fn certificates_are_known_by_their_names_unless_a_token_says_otherwise() {
    let access = access(&list("t"));
    let shown = |name: &str| ClientCertificate { names: vec![name.to_owned()] };
    let ci = shown("spiffe://prod/ci");
    assert_eq!(access.who(&HeaderMap::new(), Some(&ci)).unwrap().name, "spiffe://prod/ci");
    let refused = access.who(&HeaderMap::new(), Some(&shown("spiffe://prod/c"))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden);
    assert!(refused.message().contains("spiffe://prod/c"), "{refused}");
    assert_eq!(access.who(&headers(&["Bearer t"]), Some(&ci)).unwrap().name, "app");
    // What is wrong is wrong, even beside what is right.
    assert!(access.who(&headers(&["Bearer u"]), Some(&ci)).is_err());
}

#[test]
fn only_what_is_open_is_open() {
    let access = access(&list("t"));
    let judge = |call| access.judge(&HeaderMap::new(), None, call).map(drop).map_err(|error| error.kind());
    assert_eq!(judge(Call::Health), Ok(()));
    assert_eq!(judge(Call::Metrics), Err(ErrorKind::Unauthenticated));
    assert_eq!(judge(Call::Server), Err(ErrorKind::Unauthenticated));
    let judged = |model| access.judge(&headers(&["Bearer t"]), None, Call::Score(model));
    let asked = |model| judged(model).map(drop).map_err(|error| error.kind());
    assert_eq!((asked("risk"), asked("other")), (Ok(()), Err(ErrorKind::Forbidden)));
}

#[test]
fn a_list_that_is_wrong_or_missing_starts_nothing() {
    let open = |config: Config| Access::open(&config).err().unwrap_or_default();
    let reason = open(Config { access_file: Some("/nowhere/access".into()), ..Config::default() });
    assert!(reason.contains("/nowhere/access"), "{reason}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "token app\n").unwrap();
    assert!(open(Config { access_file: Some(file.path().to_owned()), ..Config::default() }).contains("line 1"));
    assert!(Access::open(&Config::default()).is_ok_and(|access| access.is_none()));
}

#[test]
fn a_list_follows_its_file_and_keeps_the_old_where_the_new_is_broken() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    write(&list("old"));
    let access =
        Access::open(&Config { access_file: Some(file.path().to_owned()), ..Config::default() }).unwrap().unwrap();
    let knows = |token: &str| access.who(&headers(&[&format!("Bearer {token}")]), None).is_ok();
    let look_twice = || (0..2).for_each(|_| access.look());
    write(&list("new"));
    look_twice();
    assert!(knows("new") && !knows("old"));
    write("token broken\n");
    look_twice();
    assert!(knows("new"));
}
