use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::model::*;

struct Fixture {
    dir: std::path::PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let dir = std::env::temp_dir().join(format!("ana-db-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Fixture { dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.join("meta.db")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn project() -> Project {
    Project {
        uid: "p1".into(),
        id: "shop".into(),
        display_name: "Shop".into(),
        owner: "ana@example.org".into(),
        state: State::Ready,
        server: ServerRecord { bin_dir: "/usr/lib/postgresql/17/bin".into(), major: 17, minor: 10 },
        compute: ComputeSettings::default(),
        history_seconds: 604_800.0,
        options: ProjectOptions {
            native_login: true,
            custom_tags: vec![Tag { key: "team".into(), value: "web".into() }],
            budget_policy_id: Some("b1".into()),
            compute_provisioner: None,
        },
        default_branch: "br-a".into(),
        create_time: at(0),
        update_time: at(1),
        delete_time: None,
        purge_time: None,
    }
}

fn branch(uid: &str, id: &str) -> Branch {
    Branch {
        uid: uid.into(),
        project: "p1".into(),
        id: id.into(),
        given_name: Some("feature/X".into()),
        source: Some(Source {
            branch: "br-a".into(),
            branch_id: "production".into(),
            lsn: Some("0/1A2B3C4".into()),
            time: Some(at(2)),
            fate: None,
        }),
        state: State::Ready,
        state_change_time: at(3),
        prepared: false,
        is_protected: false,
        expire_time: Some(at(100)),
        create_time: at(4),
        update_time: at(5),
        delete_time: None,
        purge_time: None,
    }
}

fn endpoint(uid: &str, branch: &str) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        branch: branch.into(),
        id: PRIMARY.into(),
        compute: ComputeSettings::default(),
        disabled: false,
        readable_secondaries: true,
        address: Some(Address { host: "127.64.0.7".parse().unwrap(), port: 5432 }),
        create_time: at(4),
        update_time: at(5),
    }
}

#[test]
fn rows_come_back_as_they_went_in_also_after_reopening() {
    let fixture = Fixture::new("round-trip");
    let (project, branch, endpoint) = (project(), branch("br-b", "dev"), endpoint("ep-1", "br-b"));
    let operation = Operation {
        uid: "o1".into(),
        resource: "projects/shop/branches/dev".into(),
        kind: Kind::Branch,
        target: "br-b".into(),
        verb: Verb::Create,
        principal: Principal { name: "bot".into(), kind: PrincipalKind::Agent },
        outcome: Outcome::Running,
        create_time: at(6),
    };
    let db = Db::open(&fixture.path()).unwrap();
    db.write(|tx| {
        projects::insert(tx, &project)?;
        branches::insert(tx, &branch)?;
        endpoints::insert(tx, &endpoint)?;
        operations::insert(tx, &operation)
    })
    .unwrap();
    drop(db);

    let db = Db::open(&fixture.path()).unwrap();
    db.read(|c| {
        assert_eq!(projects::by_id(c, "shop")?.unwrap(), project);
        assert_eq!(branches::by_id(c, "p1", "dev")?.unwrap(), branch);
        assert_eq!(endpoints::by_id(c, "br-b", PRIMARY)?.unwrap(), endpoint);
        assert_eq!(operations::get(c, &operation.resource, "o1")?.unwrap(), operation);
        assert_eq!(operations::get(c, "projects/shop", "o1")?, None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_home_of_the_first_format_is_brought_up_to_date() {
    let fixture = Fixture::new("first-format");
    let raw = Connection::open(fixture.path()).unwrap();
    raw.execute_batch(MIGRATIONS[0]).unwrap();
    raw.execute_batch(
        "INSERT INTO projects VALUES ('p1', 'shop', 'Shop', 'o', 'ready', \
         '{\"bin_dir\":\"/b\",\"major\":17,\"minor\":1}', '{\"min_cu\":1,\"max_cu\":1,\"suspend_seconds\":60}', \
         604800, 'br-a', 1, 1, NULL, NULL); \
         INSERT INTO branches VALUES ('br-a', 'p1', 'production', NULL, NULL, NULL, NULL, NULL, NULL, 'ready', \
         1, 1, 0, NULL, 1, 1, NULL, NULL); \
         INSERT INTO endpoints VALUES ('ep-1', 'br-a', 'primary', \
         '{\"min_cu\":1,\"max_cu\":1,\"suspend_seconds\":60}', 0, NULL, NULL, 1, 1); \
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(raw);
    let db = Db::open(&fixture.path()).unwrap();
    db.read(|c| {
        assert_eq!(projects::by_id(c, "shop")?.unwrap().options, ProjectOptions::default());
        assert!(!endpoints::by_uid(c, "ep-1")?.unwrap().readable_secondaries);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let fixture = Fixture::new("rollback");
    let db = Db::open(&fixture.path()).unwrap();
    let result: Result<(), Error> = db.write(|tx| {
        projects::insert(tx, &project())?;
        Err(Error::invalid("no"))
    });
    assert!(result.is_err());
    assert!(db.read(|c| projects::list(c, true)).unwrap().is_empty());
}

#[test]
fn a_name_is_taken_while_live_and_free_once_deleted() {
    let fixture = Fixture::new("names");
    let db = Db::open(&fixture.path()).unwrap();
    db.write(|tx| {
        projects::insert(tx, &project())?;
        branches::insert(tx, &branch("br-1", "dev"))
    })
    .unwrap();
    assert!(db.write(|tx| branches::insert(tx, &branch("br-2", "dev"))).is_err());

    let mut deleted = branch("br-1", "dev");
    deleted.state = State::Deleted;
    deleted.delete_time = Some(at(50));
    deleted.purge_time = Some(at(60));
    db.write(|tx| {
        branches::update(tx, &deleted)?;
        branches::insert(tx, &branch("br-2", "dev"))
    })
    .unwrap();
    db.read(|c| {
        assert_eq!(branches::by_id(c, "p1", "dev")?.unwrap().uid, "br-2");
        assert_eq!(branches::list(c, "p1", false)?.len(), 1);
        assert_eq!(branches::list(c, "p1", true)?.len(), 2);
        assert!(branches::purgeable(c, at(59))?.is_empty());
        assert_eq!(branches::purgeable(c, at(60))?[0].uid, "br-1");
        Ok(())
    })
    .unwrap();
}

#[test]
fn expiry_is_a_matter_of_the_given_time() {
    let fixture = Fixture::new("expiry");
    let db = Db::open(&fixture.path()).unwrap();
    db.write(|tx| {
        projects::insert(tx, &project())?;
        branches::insert(tx, &branch("br-1", "dev"))
    })
    .unwrap();
    let before = at(100) - SignedDuration::from_micros(1);
    assert!(db.read(|c| branches::expired(c, before)).unwrap().is_empty());
    assert_eq!(db.read(|c| branches::expired(c, at(100))).unwrap().len(), 1);
}

#[test]
fn a_protected_branch_cannot_have_an_expiry_even_by_mistake() {
    let fixture = Fixture::new("protected");
    let db = Db::open(&fixture.path()).unwrap();
    let mut wrong = branch("br-1", "dev");
    wrong.is_protected = true;
    let result = db.write(|tx| {
        projects::insert(tx, &project())?;
        branches::insert(tx, &wrong)
    });
    assert!(result.is_err());
}

#[test]
fn removing_a_branch_removes_its_endpoints_and_keeps_its_children() {
    let fixture = Fixture::new("remove");
    let db = Db::open(&fixture.path()).unwrap();
    let mut child = branch("br-c", "child");
    child.source =
        Some(Source { branch: "br-1".into(), branch_id: "dev".into(), lsn: None, time: None, fate: None });
    db.write(|tx| {
        projects::insert(tx, &project())?;
        branches::insert(tx, &branch("br-1", "dev"))?;
        branches::insert(tx, &child)?;
        endpoints::insert(tx, &endpoint("ep-1", "br-1"))?;
        branches::tell_children(tx, "br-1", Some("expired"))?;
        branches::remove(tx, "br-1")
    })
    .unwrap();
    db.read(|c| {
        assert_eq!(endpoints::by_uid(c, "ep-1")?, None);
        let child = branches::by_uid(c, "br-c")?.unwrap();
        assert_eq!(child.source.unwrap().fate.as_deref(), Some("expired"));
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_audit_log_only_grows() {
    let fixture = Fixture::new("audit");
    let db = Db::open(&fixture.path()).unwrap();
    let entry = AuditEntry {
        time: at(0),
        principal: Principal::daemon(),
        action: "branch.create".into(),
        target: "projects/shop/branches/dev".into(),
        result: "done".into(),
        detail: String::new(),
    };
    db.write(|tx| audit::append(tx, &entry)).unwrap();
    let find = |filter: audit::Filter| db.read(|c| audit::latest(c, &filter, 10)).unwrap();
    assert_eq!(find(audit::Filter::default()), std::slice::from_ref(&entry));
    let action = |text: &str| audit::Filter { action: Some(text.to_owned()), ..audit::Filter::default() };
    assert_eq!(find(action(&entry.action)), std::slice::from_ref(&entry));
    assert_eq!(find(action(entry.action.split('.').next().unwrap())), std::slice::from_ref(&entry));
    assert_eq!(find(action("bran")), []);
    let principal =
        |name: &str| audit::Filter { principal: Some(name.to_owned()), ..audit::Filter::default() };
    assert_eq!(find(principal(&entry.principal.name)), std::slice::from_ref(&entry));
    assert_eq!(find(principal("nobody")), []);
    let since = |time| audit::Filter { since: Some(time), ..audit::Filter::default() };
    assert_eq!(find(since(entry.time)), std::slice::from_ref(&entry));
    assert_eq!(find(since(entry.time + SignedDuration::from_secs(1))), []);
    for sql in ["DELETE FROM audit", "UPDATE audit SET principal = 'x'"] {
        assert!(db.write(|tx| Ok(tx.execute(sql, [])?)).is_err(), "{sql}");
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let fixture = Fixture::new("newer");
    drop(Db::open(&fixture.path()).unwrap());
    let raw = Connection::open(fixture.path()).unwrap();
    raw.pragma_update(None, "user_version", 999).unwrap();
    drop(raw);
    let text = match Db::open(&fixture.path()) {
        Ok(_) => panic!("a newer format was opened"),
        Err(error) => error.to_string(),
    };
    assert!(text.contains("format 999"), "{text}");
    let raw = Connection::open(fixture.path()).unwrap();
    let version: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 999);
}

fn role(oid: u32, id: &str) -> Role {
    Role {
        oid,
        id: id.into(),
        name: format!("name of {id}"),
        identity: Some(Identity { name: "bob@example.org".into(), kind: IdentityType::User }),
        auth_method: AuthMethod::Identity,
        superuser_member: true,
        attributes: Attributes { bypassrls: false, createdb: true, createrole: false },
        create_time: at(i64::from(oid)),
        update_time: at(9),
    }
}

#[test]
fn what_is_known_of_a_branch_is_replaced_inherited_and_goes_with_it() {
    let fixture = Fixture::new("catalog");
    let db = Db::open(&fixture.path()).unwrap();
    let plain = Role { identity: None, auth_method: AuthMethod::NoLogin, ..role(2, "plain-role") };
    let database = Database {
        oid: 5,
        id: "app-db".into(),
        name: "app".into(),
        owner: 1,
        create_time: at(1),
        update_time: at(2),
    };
    db.write(|tx| {
        projects::insert(tx, &project())?;
        branches::insert(tx, &branch("br-a", "parent"))?;
        branches::insert(tx, &branch("br-b", "child"))?;
        catalog::replace(tx, "br-a", &[role(1, "bob-role")], &[])?;
        catalog::replace(tx, "br-a", &[plain.clone(), role(1, "bob-role")], std::slice::from_ref(&database))?;
        catalog::inherit(tx, "br-a", "br-b")?;
        catalog::replace(tx, "br-a", &[], &[])?;
        assert_eq!(catalog::roles(tx, "br-b")?, [role(1, "bob-role"), plain]);
        assert_eq!(catalog::databases(tx, "br-b")?, [database]);
        assert!(catalog::roles(tx, "br-a")?.is_empty());

        assert!(!catalog::wants_fresh_passwords(tx, "br-b")?);
        catalog::want_fresh_passwords(tx, "br-b")?;
        catalog::want_fresh_passwords(tx, "br-b")?;
        assert!(catalog::wants_fresh_passwords(tx, "br-b")?);
        catalog::has_fresh_passwords(tx, "br-b")?;
        assert!(!catalog::wants_fresh_passwords(tx, "br-b")?);
        catalog::want_fresh_passwords(tx, "br-b")?;

        branches::remove(tx, "br-b")?;
        assert!(catalog::roles(tx, "br-b")?.is_empty());
        assert!(catalog::databases(tx, "br-b")?.is_empty());
        assert!(!catalog::wants_fresh_passwords(tx, "br-b")?);
        Ok(())
    })
    .unwrap();
}

/// What is asked in every round, for a page of a list or for one branch costs the same with many branches:
/// instructions of the database are counted.
#[test]
fn no_question_looks_at_every_row() {
    let few = instructions("few", 20);
    let many = instructions("many", 2000);
    for ((what, few), (_, many)) in few.iter().zip(&many) {
        assert!(*many <= few * 2 + 200, "{what}: {few} instructions with 20 branches, {many} with 2000");
    }
}

fn instructions(name: &str, count: i64) -> Vec<(&'static str, u64)> {
    let fixture = Fixture::new(name);
    let db = Db::open(&fixture.path()).unwrap();
    db.write(|tx| {
        projects::insert(tx, &project())?;
        for number in 0..count {
            let uid = format!("br-{number}");
            let mut row = branch(&uid, &format!("b{number}"));
            (row.create_time, row.expire_time) = (at(number), Some(at(10_000 + number)));
            if number % 2 == 1 {
                row.state = State::Deleted;
                (row.delete_time, row.purge_time) = (Some(at(number)), Some(at(10_000 + number)));
            }
            branches::insert(tx, &row)?;
            let host = std::net::Ipv4Addr::from(0x7f40_0000 + number as u32);
            let address = Some(Address { host: host.into(), port: 5432 });
            endpoints::insert(tx, &Endpoint { address, ..endpoint(&format!("ep-{number}"), &uid) })?;
            let operation = Operation {
                uid: format!("o{number}"),
                resource: "projects/shop".into(),
                kind: Kind::Branch,
                target: uid,
                verb: Verb::Create,
                principal: Principal { name: "bot".into(), kind: PrincipalKind::Agent },
                outcome: Outcome::Done,
                create_time: at(number),
            };
            operations::insert(tx, &operation)?;
            let principal = if number == 3 { "ana" } else { "bot" };
            let entry = AuditEntry {
                time: at(number),
                principal: Principal { name: principal.into(), kind: PrincipalKind::Agent },
                action: "branch.create".into(),
                target: "b".into(),
                result: "done".into(),
                detail: String::new(),
            };
            audit::append(tx, &entry)?;
        }
        Ok(())
    })
    .unwrap();
    let by_ana = audit::Filter { principal: Some("ana".into()), ..audit::Filter::default() };
    let recent = audit::Filter {
        since: Some(at(count - 3)),
        action: Some("project".into()),
        ..audit::Filter::default()
    };
    let loopback = "127.64.0.9".parse().unwrap();
    type Question<'a> = (&'static str, &'a dyn Fn(&Connection) -> Result<usize, Error>);
    let questions: [Question; 14] = [
        ("half made", &|c| Ok(branches::in_state(c, State::Creating)?.len())),
        ("expired", &|c| Ok(branches::expired(c, at(0))?.len())),
        ("to be freed", &|c| Ok(branches::purgeable(c, at(0))?.len())),
        ("unfinished", &|c| Ok(operations::all_running(c)?.len())),
        ("unfinished on one", &|c| Ok(operations::running(c, "br-1")?.len())),
        ("old operations", &|c| operations::prune(c, at(-1)).map(|()| 0)),
        ("an address", &|c| Ok(endpoints::is_taken(c, loopback, 0)?.into())),
        ("by name", &|c| Ok(branches::by_id(c, "p1", "b4")?.iter().count())),
        ("deleted by name", &|c| Ok(branches::last_deleted(c, "p1", "b5", at(0))?.iter().count())),
        ("the first page", &|c| Ok(branches::page(c, "p1", false, None, 5)?.len())),
        ("a later page", &|c| Ok(branches::page(c, "p1", false, Some(&(at(7), String::new())), 5)?.len())),
        ("what one did", &|c| Ok(audit::latest(c, &by_ana, 5)?.len())),
        ("what was done lately", &|c| Ok(audit::latest(c, &recent, 5)?.len())),
        ("a page with deleted ones", &|c| Ok(branches::page(c, "p1", true, None, 5)?.len())),
    ];
    db.read(|c| {
        let mut counts = Vec::new();
        for (what, question) in questions {
            let counter = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
            let counted = std::sync::Arc::clone(&counter);
            let count = move || counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == u64::MAX;
            c.progress_handler(1, Some(count));
            question(c)?;
            c.progress_handler(0, None::<fn() -> bool>);
            counts.push((what, counter.load(std::sync::atomic::Ordering::Relaxed)));
        }
        assert!(counts.iter().all(|(_, count)| *count > 0), "nothing was counted: {counts:?}");
        Ok(counts)
    })
    .unwrap()
}

#[test]
fn pages_follow_one_another() {
    let fixture = Fixture::new("pages");
    let db = Db::open(&fixture.path()).unwrap();
    db.write(|tx| {
        projects::insert(tx, &project())?;
        for (number, state) in
            [State::Ready, State::Deleted, State::Creating, State::Ready].into_iter().enumerate()
        {
            let mut row = branch(&format!("br-{number}"), &format!("b{number}"));
            row.state = state;
            if state == State::Deleted {
                (row.delete_time, row.purge_time) = (Some(at(8)), Some(at(9)));
            }
            branches::insert(tx, &row)?;
        }
        let uids = |with_deleted, after: Option<&str>, limit| {
            let after = after.map(|uid| (at(4), uid.to_owned()));
            let rows = branches::page(tx, "p1", with_deleted, after.as_ref(), limit)?;
            Ok::<_, Error>(rows.into_iter().map(|row| row.uid).collect::<Vec<_>>())
        };
        assert_eq!(uids(false, None, 9)?, ["br-0", "br-3"]);
        assert_eq!(uids(true, None, 2)?, ["br-0", "br-1"]);
        assert_eq!(uids(true, Some("br-1"), 2)?, ["br-3"]);
        assert_eq!(branches::last_deleted(tx, "p1", "b1", at(8))?.unwrap().uid, "br-1");
        assert_eq!(branches::last_deleted(tx, "p1", "b1", at(9))?, None);
        Ok(())
    })
    .unwrap();
}
