use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{BranchView, Change, Expiry, NewBranch, RemoveBranch, UpdateBranch};
use control::model::Principal;
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::mask::{Mask, fixed_field};
use crate::page::{Paged, page};
use crate::resources;
use crate::wire::{parse_body, parse_duration, parse_name, parse_time};

pub(super) fn routes() -> Routes {
    let branches = format!("{PG}/projects/{{project}}/branches");
    let branch = format!("{branches}/{{branch}}");
    Routes::new()
        .get(
            call("list_branches", &branches, "Branches of a project, oldest first")
                .paged()
                .query("show_deleted", "boolean", "Also deleted ones whose data is still there")
                .answers("ListBranchesResponse"),
            list,
        )
        .post(
            call("create_branch", &branches, "Make a branch")
                .query("branch_id", "string", "Identifier: a lowercase letter, then letters, digits, hyphens")
                .query("replace_existing", "boolean", "Change the branch where there is one already")
                .body("Branch")
                .answers("Operation"),
            create,
        )
        .get(call("get_branch", &branch, "One branch").answers("Branch"), show)
        .patch(
            call("update_branch", &branch, "Change expiry or protection")
                .masked()
                .body("Branch")
                .answers("Operation"),
            update,
        )
        .delete(
            call("delete_branch", &branch, "Delete a branch")
                .query("purge", "boolean", "Free the data at once; it cannot come back")
                .query("allow_missing", "boolean", "A branch that is not there is no error")
                .query("cascade", "boolean", "Delete the branches made from it as well (beyond the contract)")
                .answers("Operation"),
            delete,
        )
        .post(
            call("undelete_branch", format!("{branch}/undelete"), "Take the deletion of a branch back")
                .body("Empty")
                .answers("Operation"),
            undelete,
        )
}

#[derive(Deserialize)]
struct CreateQuery {
    #[serde(default)]
    branch_id: String,
    #[serde(default)]
    replace_existing: bool,
}

#[derive(Deserialize)]
pub(crate) struct BranchBody {
    spec: Option<BranchSpec>,
    anabranch: Option<OwnBranch>,
}

#[derive(Default, Deserialize)]
struct BranchSpec {
    source_branch: Option<String>,
    source_branch_lsn: Option<String>,
    source_branch_time: Option<String>,
    source_snapshot: Option<String>,
    ttl: Option<String>,
    expire_time: Option<String>,
    no_expiry: Option<bool>,
    is_protected: Option<bool>,
}

/// What we know of a branch beyond the contract.
#[derive(Default, Deserialize)]
struct OwnBranch {
    given_name: Option<String>,
}

impl BranchSpec {
    /// The one of three ways to say when the branch vanishes; none where none is given.
    fn expiry(&self) -> Result<Option<Expiry>, ApiError> {
        match (&self.ttl, &self.expire_time, self.no_expiry) {
            (None, None, None) => Ok(None),
            (Some(ttl), None, None) => Ok(Some(Expiry::After(parse_duration("spec.ttl", ttl)?))),
            (None, Some(time), None) => Ok(Some(Expiry::At(parse_time("spec.expire_time", time)?))),
            (None, None, Some(true)) => Ok(Some(Expiry::Never)),
            (None, None, Some(false)) => Err(ApiError::invalid("Field 'spec.no_expiry' can only be true.")),
            _ => Err(ApiError::invalid(
                "only one of 'spec.ttl', 'spec.expire_time' and 'spec.no_expiry' can be set",
            )),
        }
    }

    fn refuse_the_past(&self) -> Result<(), ApiError> {
        if self.source_branch_lsn.is_some()
            || self.source_branch_time.is_some()
            || self.source_snapshot.is_some()
        {
            return Err(ApiError::not_implemented("branches from a past moment or a snapshot"));
        }
        Ok(())
    }
}

async fn create(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path(project): Path<String>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: BranchBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    spec.refuse_the_past()?;
    let expiry = spec.expiry()?;
    let prefix = format!("projects/{project}/branches/");
    let source =
        spec.source_branch.map(|name| parse_name("spec.source_branch", &prefix, &name)).transpose()?;
    let request = NewBranch {
        project,
        id: query.branch_id,
        given_name: body.anabranch.unwrap_or_default().given_name,
        source,
        expiry,
        is_protected: spec.is_protected.unwrap_or(false),
        replace_existing: query.replace_existing,
    };
    let operation = local.control.create_branch(principal, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::branch(&local.control.branch(project, branch).await?)))
}

async fn list(
    State(local): State<Local>,
    Path(project): Path<String>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let (after, size) = query.bounds("branches")?;
    // One more than is shown says whether there is a next page.
    let all = local.control.branches(project, query.show_deleted, after, size + 1).await?;
    let place = |view: &BranchView| (view.branch.create_time, view.branch.uid.clone());
    Ok(Json(page("branches", all, &query, place, resources::branch)?))
}

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    update_mask: String,
}

async fn update(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<UpdateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: BranchBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let current = local.control.branch(project.clone(), branch.clone()).await?;
    let update = masked_update(&query.update_mask, &spec, &current)?;
    let operation = local.control.update_branch(principal, project, branch, update).await?;
    super::operations::answer(&local, operation).await
}

/// The members of the expiry's one-of, and their common name.
const EXPIRATION: &[&str] = &["spec.expiration", "spec.ttl", "spec.expire_time", "spec.no_expiry"];

const MASK: &[&str] =
    &["spec.is_protected", "spec.expiration", "spec.ttl", "spec.expire_time", "spec.no_expiry"];

const MASK_FIXED: &[&str] =
    &["spec.source_branch", "spec.source_branch_lsn", "spec.source_branch_time", "spec.source_snapshot"];

fn masked_update(mask: &str, spec: &BranchSpec, current: &BranchView) -> Result<UpdateBranch, ApiError> {
    let mask = Mask::parse(mask, MASK, MASK_FIXED)?;
    if mask.reaches("spec.source_branch") {
        check_source_unchanged(spec, current)?;
    }
    let expiry = match mask.pick(EXPIRATION, spec.expiry()?) {
        Change::Keep => None,
        Change::Set(expiry) => Some(expiry),
        Change::Reset => Some(Expiry::Never),
    };
    let is_protected = match mask.pick(&["spec.is_protected"], spec.is_protected) {
        Change::Keep => None,
        change => Some(change.applied(false, false)),
    };
    Ok(UpdateBranch { expiry, is_protected })
}

/// Clients that send everything send along where the branch left from, in the words of its status.
fn check_source_unchanged(spec: &BranchSpec, current: &BranchView) -> Result<(), ApiError> {
    let source = current.branch.source.as_ref();
    let have = source.map(|source| format!("projects/{}/branches/{}", current.project_id, source.branch_id));
    let have_lsn = source.and_then(|source| source.lsn.clone());
    if spec.source_branch.is_some() && spec.source_branch != have {
        return Err(fixed_field("spec.source_branch"));
    }
    if spec.source_branch_lsn.is_some() && spec.source_branch_lsn != have_lsn {
        return Err(fixed_field("spec.source_branch_lsn"));
    }
    if let Some(time) = &spec.source_branch_time
        && source.and_then(|source| source.time) != Some(parse_time("spec.source_branch_time", time)?)
    {
        return Err(fixed_field("spec.source_branch_time"));
    }
    if spec.source_snapshot.is_some() {
        return Err(fixed_field("spec.source_snapshot"));
    }
    Ok(())
}

#[derive(Deserialize)]
struct DeleteQuery {
    #[serde(default)]
    purge: bool,
    #[serde(default)]
    allow_missing: bool,
    #[serde(default)]
    cascade: bool,
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<DeleteQuery>,
) -> Result<Json<Value>, ApiError> {
    let how = RemoveBranch { purge: query.purge, cascade: query.cascade, allow_missing: query.allow_missing };
    let operation = local.control.delete_branch(principal, project, branch, how).await?;
    super::operations::answer(&local, operation).await
}

async fn undelete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let operation = local.control.undelete_branch(principal, project, branch).await?;
    super::operations::answer(&local, operation).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: Value) -> BranchSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn expiry_is_one_of_three() {
        let expiry = |json| spec(json).expiry().ok();
        assert_eq!(expiry(serde_json::json!({})), Some(None));
        assert_eq!(
            expiry(serde_json::json!({"ttl": "60s"})),
            Some(Some(Expiry::After(jiff::SignedDuration::from_secs(60))))
        );
        assert_eq!(expiry(serde_json::json!({"no_expiry": true})), Some(Some(Expiry::Never)));
        assert_eq!(
            expiry(serde_json::json!({"expire_time": "2030-01-01T00:00:00+01:00"})),
            Some(Some(Expiry::At("2029-12-31T23:00:00Z".parse().unwrap())))
        );
        for wrong in [
            serde_json::json!({"no_expiry": false}),
            serde_json::json!({"ttl": "60s", "no_expiry": true}),
            serde_json::json!({"ttl": "60s", "expire_time": "2030-01-01T00:00:00Z"}),
            serde_json::json!({"ttl": "an hour"}),
            serde_json::json!({"expire_time": "tomorrow"}),
        ] {
            assert_eq!(expiry(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn masks_choose_what_changes() {
        let current = crate::resources::tests::branch_view();
        let full = spec(serde_json::json!({
            "is_protected": true, "no_expiry": true, "source_branch": "projects/shop/branches/production",
        }));
        let update = |mask: &str, spec: &BranchSpec| {
            masked_update(mask, spec, &current).map(|update| (update.expiry, update.is_protected)).ok()
        };
        assert_eq!(update("spec.is_protected", &full), Some((None, Some(true))));
        assert_eq!(update("spec.expiration", &full), Some((Some(Expiry::Never), None)));
        for all in ["spec", "*", ""] {
            assert_eq!(update(all, &full), Some((Some(Expiry::Never), Some(true))), "{all}");
        }
        let empty = spec(serde_json::json!({}));
        assert_eq!(update("spec.is_protected", &empty), Some((None, Some(false))));
        assert_eq!(update("spec", &empty), Some((None, None)));
        for unknown in ["s,p,e,c", "spec.source_branch", "display_name"] {
            assert_eq!(update(unknown, &full), None, "{unknown}");
        }
        assert_eq!(update("spec.ttl", &empty), Some((Some(Expiry::Never), None)));
        for moved in [
            serde_json::json!({"source_branch": "projects/shop/branches/other"}),
            serde_json::json!({"source_branch_lsn": "0/1"}),
            serde_json::json!({"source_branch_time": "2030-01-01T00:00:00Z"}),
            serde_json::json!({"source_snapshot": "projects/shop/snapshots/s"}),
        ] {
            assert_eq!(update("spec", &spec(moved.clone())), None, "{moved}");
            assert!(
                update("spec.is_protected", &spec(moved)).is_some(),
                "what is not masked is not looked at"
            );
        }
        let source = current.branch.source.as_ref().unwrap();
        let echoed = spec(serde_json::json!({
            "source_branch_lsn": source.lsn, "source_branch_time": source.time.unwrap().to_string(),
        }));
        assert_eq!(update("spec", &echoed), Some((None, None)));
    }
}
