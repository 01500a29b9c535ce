//! Roles and databases as the contract shows them.

use control::app::{DatabaseView, RoleView};
use control::model::AuthMethod;
use serde_json::{Value, json};

use super::{object, time};

/// The one membership that the contract knows.
pub(crate) const SUPERUSER: &str = "DATABRICKS_SUPERUSER";

pub(crate) fn role(view: &RoleView) -> Value {
    let role = &view.role;
    let parent = format!("projects/{}/branches/{}", view.project_id, view.branch_id);
    // Plain roles carry the enumeration's first word, which clients read as "none".
    let identity_type = role.identity.as_ref().map_or("IDENTITY_TYPE_UNSPECIFIED", |it| it.kind.as_str());
    let status = object([
        ("role_id", Some(json!(role.id))),
        ("postgres_role", Some(json!(role.name))),
        ("identity_type", Some(json!(identity_type))),
        ("auth_method", Some(json!(auth_method(role.auth_method)))),
        ("membership_roles", role.superuser_member.then(|| json!([SUPERUSER]))),
        (
            "attributes",
            Some(json!({
                "bypassrls": role.attributes.bypassrls,
                "createdb": role.attributes.createdb,
                "createrole": role.attributes.createrole,
            })),
        ),
    ]);
    object([
        ("name", Some(json!(format!("{parent}/roles/{}", role.id)))),
        ("role_id", Some(json!(role.id))),
        ("parent", Some(json!(parent))),
        ("create_time", Some(time(role.create_time))),
        ("update_time", Some(time(role.update_time))),
        ("status", Some(status)),
    ])
}

pub(crate) fn database(view: &DatabaseView) -> Value {
    let database = &view.database;
    let parent = format!("projects/{}/branches/{}", view.project_id, view.branch_id);
    let status = object([
        ("database_id", Some(json!(database.id))),
        ("postgres_database", Some(json!(database.name))),
        ("role", view.owner_id.as_ref().map(|owner| json!(format!("{parent}/roles/{owner}")))),
    ]);
    object([
        ("name", Some(json!(format!("{parent}/databases/{}", database.id)))),
        ("database_id", Some(json!(database.id))),
        ("parent", Some(json!(parent))),
        ("create_time", Some(time(database.create_time))),
        ("update_time", Some(time(database.update_time))),
        ("status", Some(status)),
    ])
}

fn auth_method(method: AuthMethod) -> &'static str {
    match method {
        AuthMethod::Identity => "LAKEBASE_OAUTH_V1",
        AuthMethod::Password => "PG_PASSWORD_SCRAM_SHA_256",
        AuthMethod::NoLogin => "NO_LOGIN",
    }
}

/// The method that a word of the contract means.
pub(crate) fn parse_auth_method(word: &str) -> Option<AuthMethod> {
    [AuthMethod::Identity, AuthMethod::Password, AuthMethod::NoLogin]
        .into_iter()
        .find(|method| auth_method(*method) == word)
}

#[cfg(test)]
mod tests {
    use control::model::{Attributes, Database, Identity, IdentityType, Role};

    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn role_view() -> RoleView {
        RoleView {
            role: Role {
                oid: 16_400,
                id: "app-role".into(),
                name: "app_role".into(),
                identity: None,
                auth_method: AuthMethod::Password,
                superuser_member: false,
                attributes: Attributes::default(),
                create_time: at(0),
                update_time: at(1),
            },
            project_id: "shop".into(),
            branch_id: "dev".into(),
        }
    }

    #[test]
    fn a_plain_role_shows_all_three_attributes_and_no_membership() {
        assert_eq!(
            role(&role_view()),
            json!({
                "name": "projects/shop/branches/dev/roles/app-role",
                "role_id": "app-role",
                "parent": "projects/shop/branches/dev",
                "create_time": "2027-01-15T08:00:00Z",
                "update_time": "2027-01-15T08:00:01Z",
                "status": {
                    "role_id": "app-role",
                    "postgres_role": "app_role",
                    "identity_type": "IDENTITY_TYPE_UNSPECIFIED",
                    "auth_method": "PG_PASSWORD_SCRAM_SHA_256",
                    "attributes": {"bypassrls": false, "createdb": false, "createrole": false},
                },
            })
        );
    }

    #[test]
    fn an_identity_shows_its_kind() {
        let mut view = role_view();
        view.role.identity = Some(Identity { name: "x".into(), kind: IdentityType::ServicePrincipal });
        view.role.auth_method = AuthMethod::Identity;
        view.role.superuser_member = true;
        let status = role(&view)["status"].clone();
        assert_eq!(status["identity_type"], "SERVICE_PRINCIPAL");
        assert_eq!(status["auth_method"], "LAKEBASE_OAUTH_V1");
        assert_eq!(status["membership_roles"], json!(["DATABRICKS_SUPERUSER"]));
        for method in [AuthMethod::Identity, AuthMethod::Password, AuthMethod::NoLogin] {
            assert_eq!(parse_auth_method(auth_method(method)), Some(method));
        }
        assert_eq!(parse_auth_method("identity"), None);
    }

    #[test]
    fn a_database_names_its_owner_in_full() {
        let mut view = DatabaseView {
            database: Database {
                oid: 16_401,
                id: "app-db".into(),
                name: "app_db".into(),
                owner: 16_400,
                create_time: at(0),
                update_time: at(0),
            },
            owner_id: Some("app-role".into()),
            project_id: "shop".into(),
            branch_id: "dev".into(),
        };
        assert_eq!(database(&view)["name"], "projects/shop/branches/dev/databases/app-db");
        assert_eq!(
            database(&view)["status"],
            json!({
                "database_id": "app-db",
                "postgres_database": "app_db",
                "role": "projects/shop/branches/dev/roles/app-role",
            })
        );
        view.owner_id = None;
        assert_eq!(database(&view)["status"].get("role"), None);
    }
}
