use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Methods and templates of a router. It does not tell them but to a debugger, so that is what is
/// read here; if the form of that text changes, the counts below do not add up.
fn routes_of(debugged: &str) -> BTreeSet<(String, String)> {
    // Another router, for fallbacks, follows the one that is meant.
    let (handlers, paths) = debugged.split_once("paths: {").unwrap();
    let mut methods: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for part in handlers.split("RouteId(").skip(1) {
        let (id, rest) = part.split_once(')').unwrap();
        if let Some(allowed) = rest.split("allow_header: Bytes(b\"").nth(1) {
            methods.insert(id, allowed.split('"').next().unwrap().split(',').collect());
        }
    }
    let mut found = BTreeSet::new();
    for part in paths.split("RouteId(").skip(1) {
        let (id, rest) = part.split_once(')').unwrap();
        let Some(path) = rest.strip_prefix(": \"").and_then(|rest| rest.split('"').next()) else { break };
        // A route that takes any method has no such header.
        for method in methods.get(id).map_or(&["*"][..], Vec::as_slice) {
            found.insert(((*method).to_owned(), path.to_owned()));
        }
    }
    found
}

fn served() -> BTreeSet<(String, String)> {
    routes_of(&format!("{:?}", crate::routes::all()))
}

#[test]
fn the_router_can_be_walked() {
    let routes = served();
    for (method, path) in [
        ("GET", "/health"),
        ("DELETE", "/api/2.0/postgres/projects/{project}"),
        ("PATCH", "/api/2.0/postgres/projects/{project}/branches/{branch}"),
        ("POST", "/api/anabranch/v1/shutdown"),
    ] {
        assert!(routes.contains(&(method.to_owned(), path.to_owned())), "{method} {path} in {routes:?}");
    }
    assert!(routes.len() > 40, "{routes:?}");
}

#[test]
fn every_route_has_a_rule() {
    let missing: Vec<_> = served()
        .into_iter()
        .filter(|(method, path)| rule(&method.parse().unwrap(), path).is_none())
        .collect();
    assert!(missing.is_empty(), "add to api/src/rules.rs: {missing:?}");
}

#[test]
fn a_rule_about_a_project_finds_it_in_the_path() {
    for (method, path, rule) in TABLE {
        match rule {
            OnProject(_) => assert!(path.contains("{project}"), "{method} {path}"),
            OnOperation => assert!(path.contains("{project}") && path.ends_with("{operation}"), "{path}"),
            Open => assert!(!path.starts_with("/api/"), "{method} {path}: nothing of the API is open"),
            Of(_) => {}
        }
    }
}

#[test]
fn a_route_is_listed_once() {
    let mut seen = BTreeSet::new();
    for (method, path, _) in TABLE {
        assert!(seen.insert((method, path)), "{method} {path}");
        assert!(knows(path));
    }
}

#[test]
fn heads_are_gets() {
    assert_eq!(rule(&Method::HEAD, "/health"), Some(Open));
    assert_eq!(rule(&Method::POST, "/health"), None);
}
