//! May every dependency be shipped with us? The rules are those of `deny.toml`, which `cargo deny` reads too; this is
//! the check for machines without that tool.

use tiltyard_tests::{Package, packages, root};

/// The rules, of those that `deny.toml` can hold, that are checked here.
struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    banned: Vec<String>,
    registries: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> Rules {
        let table: toml::Table = text.parse().expect("deny.toml is TOML");
        let list = |section: &str, key: &str, inner: Option<&str>| -> Vec<String> {
            let entries = table[section][key].as_array().unwrap_or_else(|| panic!("{section}.{key} is a list"));
            let name = |entry: &toml::Value| inner.map_or(entry, |inner| &entry[inner]).as_str().map(str::to_owned);
            entries.iter().map(|entry| name(entry).unwrap_or_else(|| panic!("{section}.{key} holds text"))).collect()
        };
        Rules {
            targets: list("graph", "targets", None),
            licences: list("licenses", "allow", None),
            banned: list("bans", "deny", Some("crate")),
            registries: list("sources", "allow-registry", None),
        }
    }

    /// Everything that is wrong, one line each.
    fn violations(&self, packages: &[Package]) -> Vec<String> {
        packages
            .iter()
            .filter_map(|package| Some(format!("{} {}: {}", package.name, package.version, self.fault(package)?)))
            .collect()
    }

    fn fault(&self, package: &Package) -> Option<String> {
        if self.banned.contains(&package.name) {
            return Some("banned".into());
        }
        if let Some(source) = &package.source
            && !self.registries.iter().any(|registry| source.strip_prefix("registry+") == Some(registry))
        {
            return Some(format!("comes from {source}"));
        }
        let Some(licence) = &package.licence else { return Some("no licence".into()) };
        match Expression::new(licence).satisfied_by(&self.licences) {
            Ok(true) => None,
            Ok(false) => Some(format!("licence {licence}")),
            Err(problem) => Some(format!("licence {licence:?}: {problem}")),
        }
    }
}

/// A licence expression after SPDX: names, `WITH`, `AND`, `OR` in the order of their strength, and parentheses. The
/// slash of older manifests stands for `OR`.
struct Expression {
    words: Vec<String>,
    at: usize,
}

impl Expression {
    fn new(text: &str) -> Expression {
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        Expression { words: spaced.split_whitespace().map(str::to_owned).collect(), at: 0 }
    }

    fn satisfied_by(mut self, allowed: &[String]) -> Result<bool, String> {
        let satisfied = self.either(allowed)?;
        match self.words.get(self.at) {
            None => Ok(satisfied),
            Some(word) => Err(format!("{word:?} was not expected")),
        }
    }

    fn either(&mut self, allowed: &[String]) -> Result<bool, String> {
        let mut satisfied = self.both(allowed)?;
        while self.take("OR") {
            satisfied |= self.both(allowed)?;
        }
        Ok(satisfied)
    }

    fn both(&mut self, allowed: &[String]) -> Result<bool, String> {
        let mut satisfied = self.one(allowed)?;
        while self.take("AND") {
            satisfied &= self.one(allowed)?;
        }
        Ok(satisfied)
    }

    fn one(&mut self, allowed: &[String]) -> Result<bool, String> {
        if self.take("(") {
            let satisfied = self.either(allowed)?;
            return if self.take(")") { Ok(satisfied) } else { Err("a parenthesis is not closed".into()) };
        }
        let mut name = self.name()?;
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.name()?);
        }
        Ok(allowed.contains(&name))
    }

    fn name(&mut self) -> Result<String, String> {
        match self.words.get(self.at) {
            Some(word) if !["AND", "OR", "WITH", "(", ")"].contains(&word.as_str()) => {
                self.at += 1;
                Ok(word.clone())
            }
            found => Err(format!("expected a licence, found {}", found.map_or("the end", String::as_str))),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.get(self.at).is_some_and(|next| next == word);
        self.at += usize::from(is_next);
        is_next
    }
}

fn rules() -> Rules {
    Rules::read(&std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there"))
}

#[test]
fn every_dependency_may_be_shipped() {
    let rules = rules();
    let targets: Vec<&str> = rules.targets.iter().map(String::as_str).collect();
    let packages = packages(&targets);
    assert!(packages.iter().any(|package| !package.is_ours()), "cargo named no dependency");
    let violations = rules.violations(&packages);
    assert!(violations.is_empty(), "not allowed by deny.toml:\n{}", violations.join("\n"));
}

#[test]
fn what_may_not_be_shipped_is_named() {
    let rules = rules();
    #[track_caller]
    fn check(rules: &Rules, package: Package, expected: &[&str]) {
        assert_eq!(rules.violations(&[Package { version: "1.0.0".into(), ..package }]), expected);
    }
    let crates_io = || Some("registry+https://github.com/rust-lang/crates.io-index".to_owned());
    let licensed = |licence: &str| Package {
        name: "x".into(),
        licence: Some(licence.into()),
        source: crates_io(),
        ..Package::default()
    };
    check(&rules, licensed("MIT"), &[]);
    check(&rules, licensed("GPL-3.0-only"), &["x 1.0.0: licence GPL-3.0-only"]);
    check(&rules, Package { licence: None, ..licensed("") }, &["x 1.0.0: no licence"]);
    check(&rules, Package { name: "openssl".into(), ..licensed("MIT") }, &["openssl 1.0.0: banned"]);
    let elsewhere = Some("git+https://example.com/x#1".to_owned());
    check(
        &rules,
        Package { source: elsewhere, ..licensed("MIT") },
        &["x 1.0.0: comes from git+https://example.com/x#1"],
    );
    check(&rules, licensed("MIT OR"), &["x 1.0.0: licence \"MIT OR\": expected a licence, found the end"]);
    check(&rules, licensed("MIT Zlib"), &["x 1.0.0: licence \"MIT Zlib\": \"Zlib\" was not expected"]);
    check(&rules, licensed("(MIT"), &["x 1.0.0: licence \"(MIT\": a parenthesis is not closed"]);
}

#[test]
fn expressions_mean_what_spdx_says() {
    #[track_caller]
    fn check(expression: &str, expected: bool) {
        let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        assert_eq!(Expression::new(expression).satisfied_by(&allowed), Ok(expected), "{expression}");
    }
    check("MIT", true);
    check("GPL-2.0-only", false);
    check("GPL-2.0-only OR MIT", true);
    check("GPL-2.0-only/MIT", true);
    check("GPL-2.0-only AND MIT", false);
    check("Zlib AND MIT", true);
    check("GPL-2.0-only AND Zlib OR MIT", true);
    check("GPL-2.0-only AND (Zlib OR MIT)", false);
    check("(GPL-2.0-only OR MIT) AND Zlib", true);
    check("Apache-2.0", false);
    check("Apache-2.0 WITH LLVM-exception", true);
}
