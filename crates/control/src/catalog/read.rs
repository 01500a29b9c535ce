//! Reading the catalogs.

use std::collections::HashSet;

use tokio_postgres::{Client, Row};

use super::names::is_segment;
use super::{Catalog, DATABASE_ID, IDENTITY_NAME, IDENTITY_TYPE, LiveDatabase, LiveRole, ROLE_ID};
use crate::error::Error;
use crate::model::{Attributes, AuthMethod, Identity, IdentityType};
use crate::prepare::SUPERUSER_GROUP;

/// Below this number are the objects that initdb made: the bootstrap superuser, the predefined roles.
const FIRST_NORMAL_OID: u32 = 16_384;

const ROLES: &str = "\
    SELECT r.oid, r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolbypassrls, r.rolcreatedb, r.rolcreaterole, \
           r.rolpassword IS NOT NULL, coalesce(s.setconfig, '{}'), \
           EXISTS (SELECT FROM pg_auth_members m JOIN pg_authid g ON g.oid = m.roleid \
                   WHERE m.member = r.oid AND g.rolname = $1) \
    FROM pg_authid r LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0 \
    WHERE r.oid >= $2 AND r.rolname <> $1 ORDER BY r.oid";

const DATABASES: &str = "\
    SELECT d.oid, d.datname::text, d.datdba, coalesce(s.setconfig, '{}') \
    FROM pg_database d LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0 \
    WHERE d.oid >= $1 AND NOT d.datistemplate ORDER BY d.oid";

/// Everything that people made in the branch whose administrator `client` is.
///
/// # Errors
/// The connection failed.
pub(crate) async fn read(client: &Client) -> Result<Catalog, Error> {
    let failed = |error| Error::postgres("cannot read the branch's roles and databases", error);
    // Both on their way at once.
    let group: &str = SUPERUSER_GROUP;
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&group, &FIRST_NORMAL_OID];
    let (roles, databases) =
        tokio::try_join!(client.query(ROLES, &arguments), client.query(DATABASES, &arguments[1..]))
            .map_err(failed)?;
    let mut roles: Vec<LiveRole> = roles.iter().map(role).collect();
    let mut databases: Vec<LiveDatabase> = databases.iter().map(database).collect();
    give_ids("role", roles.iter_mut().map(|role| (role.oid, &mut role.id)).collect());
    give_ids("db", databases.iter_mut().map(|database| (database.oid, &mut database.id)).collect());
    Ok(Catalog { roles, databases })
}

fn role(row: &Row) -> LiveRole {
    let name: String = row.get(1);
    let settings: Vec<String> = row.get(8);
    let kind = setting(&settings, IDENTITY_TYPE).and_then(IdentityType::parse);
    let identity = kind
        .map(|kind| Identity { name: setting(&settings, IDENTITY_NAME).unwrap_or(&name).to_owned(), kind });
    let auth_method = match (row.get(2), &identity) {
        (false, _) => AuthMethod::NoLogin,
        (true, Some(_)) => AuthMethod::Identity,
        (true, None) => AuthMethod::Password,
    };
    LiveRole {
        oid: row.get(0),
        id: wanted_id(&settings, ROLE_ID),
        name,
        identity,
        auth_method,
        is_superuser: row.get(3),
        attributes: Attributes { bypassrls: row.get(4), createdb: row.get(5), createrole: row.get(6) },
        has_password: row.get(7),
        superuser_member: row.get(9),
    }
}

fn database(row: &Row) -> LiveDatabase {
    let settings: Vec<String> = row.get(3);
    LiveDatabase {
        oid: row.get(0),
        id: wanted_id(&settings, DATABASE_ID),
        name: row.get(1),
        owner: row.get(2),
    }
}

fn setting<'a>(settings: &'a [String], name: &str) -> Option<&'a str> {
    settings
        .iter()
        .find_map(|line| line.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// The identifier that was given; empty where none was.
fn wanted_id(settings: &[String], name: &str) -> String {
    setting(settings, name).filter(|id| is_segment(id)).unwrap_or_default().to_owned()
}

/// Gives an identifier to what has none of its own: made from PostgreSQL's number, so that it is the
/// same after a rename and on every branch. In the order of these numbers.
fn give_ids(prefix: &str, mut items: Vec<(u32, &mut String)>) {
    let mut taken = HashSet::new();
    for (_, id) in items.iter_mut().filter(|(_, id)| !id.is_empty()) {
        if !taken.insert(id.clone()) {
            id.clear();
        }
    }
    for (oid, id) in items.iter_mut().filter(|(_, id)| id.is_empty()) {
        let mut made = format!("{prefix}-{oid:08x}");
        while !taken.insert(made.clone()) {
            made.push_str("-x");
        }
        **id = made;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique_and_depend_on_the_number_alone() {
        let given = |ids: &[&str]| {
            let mut ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            give_ids("role", ids.iter_mut().enumerate().map(|(at, id)| (16_384 + at as u32, id)).collect());
            ids
        };
        assert_eq!(given(&["", "app-role", ""]), ["role-00004000", "app-role", "role-00004002"]);
        // Somebody gave one the identifier that another has by its number, or two the same.
        assert_eq!(given(&["", "role-00004000"]), ["role-00004000-x", "role-00004000"]);
        assert_eq!(given(&["same", "same"]), ["same", "role-00004001"]);
    }

    #[test]
    fn settings_are_found_by_their_whole_name() {
        let settings = ["anabranch.role_idx=a", "anabranch.role_id=b=c"].map(str::to_owned);
        assert_eq!(setting(&settings, ROLE_ID), Some("b=c"));
        assert_eq!(setting(&settings, IDENTITY_TYPE), None);
        assert_eq!(wanted_id(&settings, ROLE_ID), "", "what cannot stand in a name is no identifier");
    }
}
