use clap::Subcommand;

use super::*;
use crate::commands::postgres::Command;
use crate::commands::postgres::grammar::VERBS;

fn parse(line: &str) -> (&'static Verb, ArgMatches) {
    let words = line.split(' ').map(|word| word.replace('~', " "));
    let group = Command::augment_subcommands(clap::Command::new("postgres"));
    let matches = group.try_get_matches_from(std::iter::once("postgres".to_owned()).chain(words)).unwrap();
    let (name, matches) = matches.subcommand().unwrap();
    (VERBS.iter().find(|verb| verb.name == name).unwrap(), matches.clone())
}

/// Method, path and body of a command; `~` stands for a space.
fn built(line: &str) -> Result<(String, String, String), String> {
    let (verb, matches) = parse(line);
    let request = build(verb, &matches)?;
    let body = request.body.map(|body| body.to_string()).unwrap_or_default();
    Ok((request.method.to_string(), request.path, body))
}

#[test]
fn every_command_has_its_call() {
    let rows: &[(&str, &str, &str, &str)] = &[
        ("create-project p", "POST", "projects?project_id=p", "{}"),
        (
            "create-project p --json {\"spec\":{\"pg_version\":17}} --name projects/p",
            "POST",
            "projects?project_id=p",
            r#"{"spec":{"pg_version":17},"name":"projects/p"}"#,
        ),
        ("get-project projects/p", "GET", "projects/p", ""),
        ("list-projects --page-size 5 --show-deleted", "GET", "projects?show_deleted=true&page_size=5", ""),
        (
            "update-project projects/p spec.display_name,spec.custom_tags --json {\"spec\":{\"display_name\":\"X\"}}",
            "PATCH",
            "projects/p?update_mask=spec.display_name%2Cspec.custom_tags",
            r#"{"spec":{"display_name":"X"}}"#,
        ),
        ("delete-project projects/p --purge --no-wait", "DELETE", "projects/p?purge=true", ""),
        ("undelete-project projects/p --timeout 1m", "POST", "projects/p/undelete", "{}"),
        (
            "create-branch projects/p dev --replace-existing --json {\"spec\":{\"no_expiry\":true,\"is_protected\":false}}",
            "POST",
            "projects/p/branches?branch_id=dev&replace_existing=true",
            r#"{"spec":{"no_expiry":true,"is_protected":false}}"#,
        ),
        ("get-branch projects/p/branches/b", "GET", "projects/p/branches/b", ""),
        ("list-branches projects/p", "GET", "projects/p/branches", ""),
        (
            "update-branch projects/p/branches/b spec.expiration",
            "PATCH",
            "projects/p/branches/b?update_mask=spec.expiration",
            "{}",
        ),
        ("delete-branch projects/p/branches/b", "DELETE", "projects/p/branches/b", ""),
        ("undelete-branch projects/p/branches/b", "POST", "projects/p/branches/b/undelete", "{}"),
        (
            "create-endpoint projects/p/branches/b primary",
            "POST",
            "projects/p/branches/b/endpoints?endpoint_id=primary",
            "{}",
        ),
        ("get-endpoint projects/p/branches/b/endpoints/e", "GET", "projects/p/branches/b/endpoints/e", ""),
        ("list-endpoints projects/p/branches/b", "GET", "projects/p/branches/b/endpoints", ""),
        (
            "update-endpoint projects/p/branches/b/endpoints/e spec",
            "PATCH",
            "projects/p/branches/b/endpoints/e?update_mask=spec",
            "{}",
        ),
        (
            "delete-endpoint projects/p/branches/b/endpoints/e",
            "DELETE",
            "projects/p/branches/b/endpoints/e",
            "",
        ),
        (
            "create-role projects/p/branches/b --role-id r@x.org",
            "POST",
            "projects/p/branches/b/roles?role_id=r%40x.org",
            "{}",
        ),
        ("get-role projects/p/branches/b/roles/r@x.org", "GET", "projects/p/branches/b/roles/r%40x.org", ""),
        ("list-roles projects/p/branches/b", "GET", "projects/p/branches/b/roles", ""),
        (
            "update-role projects/p/branches/b/roles/r spec.attributes.createdb",
            "PATCH",
            "projects/p/branches/b/roles/r?update_mask=spec.attributes.createdb",
            "{}",
        ),
        (
            "delete-role projects/p/branches/b/roles/r --reassign-owned-to projects/p/branches/b/roles/s",
            "DELETE",
            "projects/p/branches/b/roles/r?reassign_owned_to=projects%2Fp%2Fbranches%2Fb%2Froles%2Fs",
            "",
        ),
        (
            "create-database projects/p/branches/b --database-id d --replace-existing",
            "POST",
            "projects/p/branches/b/databases?replace_existing=true&database_id=d",
            "{}",
        ),
        ("get-database projects/p/branches/b/databases/d", "GET", "projects/p/branches/b/databases/d", ""),
        ("list-databases projects/p/branches/b --limit 3", "GET", "projects/p/branches/b/databases", ""),
        (
            "update-database projects/p/branches/b/databases/d spec.role",
            "PATCH",
            "projects/p/branches/b/databases/d?update_mask=spec.role",
            "{}",
        ),
        (
            "delete-database projects/p/branches/b/databases/d",
            "DELETE",
            "projects/p/branches/b/databases/d",
            "",
        ),
        (
            "generate-database-credential projects/p/branches/b/endpoints/e --ttl 10m",
            "POST",
            "credentials",
            r#"{"endpoint":"projects/p/branches/b/endpoints/e","ttl":"600s"}"#,
        ),
        (
            "generate-database-credential --json {\"endpoint\":\"e\"}",
            "POST",
            "credentials",
            r#"{"endpoint":"e"}"#,
        ),
        ("get-operation projects/p/operations/u", "GET", "projects/p/operations/u", ""),
        (
            "create-catalog shop --json {\"spec\":{\"postgres_database\":\"d\"}}",
            "POST",
            "catalogs?catalog_id=shop",
            r#"{"spec":{"postgres_database":"d"}}"#,
        ),
        ("get-catalog catalogs/shop", "GET", "catalogs/shop", ""),
        ("delete-catalog catalogs/shop --no-wait", "DELETE", "catalogs/shop", ""),
        ("create-synced-table c.s.t", "POST", "synced_tables?synced_table_id=c.s.t", "{}"),
        ("get-synced-table synced_tables/c.s.t", "GET", "synced_tables/c.s.t", ""),
        ("delete-synced-table synced_tables/c.s.t", "DELETE", "synced_tables/c.s.t", ""),
        (
            "create-cdf-config projects/p/branches/b/databases/d c s public --cdf-config-id feed",
            "POST",
            "projects/p/branches/b/databases/d/cdf-configs?cdf_config_id=feed",
            r#"{"catalog":"c","schema":"s","postgres_schema":"public"}"#,
        ),
        (
            "create-cdf-config projects/p/branches/b/databases/d --json {\"catalog\":\"c\"}",
            "POST",
            "projects/p/branches/b/databases/d/cdf-configs",
            r#"{"catalog":"c"}"#,
        ),
        (
            "get-cdf-config projects/p/branches/b/databases/d/cdf-configs/f",
            "GET",
            "projects/p/branches/b/databases/d/cdf-configs/f",
            "",
        ),
        (
            "list-cdf-configs projects/p/branches/b/databases/d --page-size 2",
            "GET",
            "projects/p/branches/b/databases/d/cdf-configs?page_size=2",
            "",
        ),
        (
            "delete-cdf-config projects/p/branches/b/databases/d/cdf-configs/f --force",
            "DELETE",
            "projects/p/branches/b/databases/d/cdf-configs/f?force=true",
            "",
        ),
        (
            "get-cdf-status projects/p/branches/b/databases/d/cdf-configs/f/cdf-statuses/t",
            "GET",
            "projects/p/branches/b/databases/d/cdf-configs/f/cdf-statuses/t",
            "",
        ),
        (
            "list-cdf-statuses projects/p/branches/b/databases/d/cdf-configs/f",
            "GET",
            "projects/p/branches/b/databases/d/cdf-configs/f/cdf-statuses",
            "",
        ),
        (
            "create-data-api projects/p/branches/b/databases/d",
            "POST",
            "projects/p/branches/b/databases/d/data-api",
            "{}",
        ),
        (
            "get-data-api projects/p/branches/b/databases/d/data-api",
            "GET",
            "projects/p/branches/b/databases/d/data-api",
            "",
        ),
        (
            "update-data-api projects/p/branches/b/databases/d/data-api spec.db_max_rows",
            "PATCH",
            "projects/p/branches/b/databases/d/data-api?update_mask=spec.db_max_rows",
            "{}",
        ),
        (
            "delete-data-api projects/p/branches/b/databases/d/data-api",
            "DELETE",
            "projects/p/branches/b/databases/d/data-api",
            "",
        ),
    ];
    for (line, method, path, body) in rows {
        let (have_method, have_path, have_body) = built(line).unwrap();
        assert_eq!(
            (have_method.as_str(), have_path.as_str(), have_body.as_str()),
            (*method, *path, *body),
            "{line}"
        );
    }
    for verb in VERBS {
        assert!(
            rows.iter().any(|(line, ..)| line.split(' ').next() == Some(verb.name)),
            "{} is not tried",
            verb.name
        );
    }
}

#[test]
fn mistakes_are_told_in_the_vendors_words() {
    let why = |line: &str| built(line).unwrap_err();
    assert_eq!(why("get-project"), "accepts 1 arg(s), received 0");
    assert_eq!(why("create-branch projects/p"), "accepts 2 arg(s), received 1");
    assert_eq!(why("list-projects x"), "accepts 0 arg(s), received 1");
    assert!(
        why("create-branch projects/p b --json {\"branch\":{\"spec\":{}}}")
            .starts_with("--json should NOT be wrapped in '{\"branch\": ...}'")
    );
    assert!(
        why("create-role b --json {\"role\":{}}")
            .starts_with("--json should NOT be wrapped in '{\"role\": ...}'")
    );
    assert!(why("create-project p --json {").starts_with("error decoding JSON at (inline)"));
    assert!(why("create-project p --json @/nonexistent").starts_with("cannot read /nonexistent"));
    assert_eq!(why("create-project p --json []"), "--json must be a JSON object");
    assert!(why("generate-database-credential e --json {}").starts_with("when --json flag is specified"));
    assert_eq!(
        why("create-cdf-config d c --json {}"),
        "when --json flag is specified, provide only PARENT as positional arguments. \
         Provide 'catalog', 'schema', 'postgres_schema' in your JSON input"
    );
    assert_eq!(why("create-cdf-config d"), "accepts 4 arg(s), received 1");
    assert!(
        why("create-synced-table c.s.t --json {\"synced_table\":{}}")
            .starts_with("--json should NOT be wrapped in '{\"synced_table\": ...}'")
    );
    let limit = |line: &str| limit(&parse(line).1);
    assert_eq!(limit("list-projects --limit -1").unwrap_err(), "--limit must be a non-negative integer");
    assert_eq!(limit("list-projects --limit 0"), Ok(None));
    assert_eq!(limit("list-projects --limit 7"), Ok(Some(7)));
    assert!(limit("list-projects --limit x").is_err());
}

#[test]
fn waiting_is_bounded_in_gos_durations() {
    let waits = |line: &str| waiting(&parse(line).1);
    assert_eq!(waits("delete-project p"), Ok(Waiting::default()));
    assert_eq!(waits("delete-project p --timeout 0").unwrap().timeout, None);
    assert_eq!(waits("delete-project p --timeout 1h30m").unwrap().timeout, Some(Duration::from_secs(5400)));
    assert!(waits("delete-project p --no-wait").unwrap().no_wait);
    assert!(waits("delete-project p --timeout soon").is_err());
}

#[test]
fn switches_are_gos() {
    let path = |line: &str| built(line).unwrap().1;
    for yes in ["--purge", "--purge=true", "--purge=1", "--purge=T", "--purge=false --purge"] {
        assert_eq!(path(&format!("delete-branch b {yes}")), "b?purge=true", "{yes}");
    }
    for no in ["--purge=false", "--purge=0", "--purge=F", "--purge --purge=FALSE"] {
        assert_eq!(path(&format!("delete-branch b {no}")), "b", "{no}");
    }
    assert!(!waiting(&parse("delete-branch b --no-wait=false").1).unwrap().no_wait);
    assert_eq!(built("delete-branch b --purge false").unwrap_err(), "accepts 1 arg(s), received 2");
    let group = Command::augment_subcommands(clap::Command::new("postgres"));
    assert!(group.try_get_matches_from(["postgres", "delete-branch", "b", "--purge=yes"]).is_err());
}

#[test]
fn flags_of_every_command_change_nothing() {
    let flags = "-p mine --target dev --debug --log-level info --log-file /tmp/x --log-format=json -o json";
    for line in [format!("get-branch b {flags}"), format!("{flags} get-branch b")] {
        assert_eq!(built(&line).unwrap(), built("get-branch b").unwrap(), "{line}");
    }
    assert_eq!(built("get-branch b --debug=false --profile x -t y").unwrap(), built("get-branch b").unwrap());
}

#[test]
fn unknown_fields_are_dropped_with_a_warning() {
    let (verb, matches) =
        parse("create-branch projects/p b --json {\"spec\":{\"ttl\":\"60s\",\"tll\":1},\"extra\":2}");
    let request = build(verb, &matches).unwrap();
    assert_eq!(request.body, Some(json!({"spec": {"ttl": "60s"}})));
    assert_eq!(request.warnings, ["unknown field: spec.tll", "unknown field: extra"]);
    let (verb, matches) = parse(
        "create-project p --json {\"spec\":{\"default_endpoint_settings\":{\"pg_settings\":{\"jit\":\"off\"}}}}",
    );
    assert_eq!(build(verb, &matches).unwrap().warnings, Vec::<String>::new());
}
