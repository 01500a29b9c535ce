use std::collections::{HashMap, HashSet};

use client::Branch;
use jiff::Timestamp;

use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// List branches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples: ana branch list --tree\n          ana branch list --deleted")]
pub struct Args {
    /// Draw who left from whom
    #[arg(long)]
    tree: bool,
    /// Those that are deleted and can come back
    #[arg(long, conflicts_with = "tree")]
    deleted: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let listed = match args.deleted {
        true => client.deleted_branches(&project).await,
        false => client.branches(&project).await,
    };
    let branches = listed.map_err(|error| about(error, &project, ""))?;
    if args.json {
        return output::json(&branches);
    }
    if args.deleted {
        let rows: Vec<_> = branches.iter().map(deleted_row).collect();
        output::table(&["BRANCH", "PARENT", "CREATED", "DELETED", "FREED"], &rows);
        return Ok(());
    }
    let now = Timestamp::now();
    let lines: Vec<(String, &Branch)> = if args.tree {
        tree(&branches)
    } else {
        branches.iter().map(|branch| (branch.branch_id.clone(), branch)).collect()
    };
    let mut rows = Vec::new();
    for (label, branch) in lines {
        let own = branch.anabranch.as_ref();
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), output::bytes);
        rows.push(vec![
            label,
            parent(branch),
            output::relative(&branch.create_time, now),
            branch
                .status
                .expire_time
                .as_deref()
                .map_or_else(|| "never".to_owned(), |time| output::relative(time, now)),
            size(own.and_then(|own| own.own_bytes)),
            size(own.and_then(|own| own.shared_bytes)),
            size(branch.status.logical_size_bytes.try_into().ok()),
            marks(branch),
        ]);
    }
    output::table(&["BRANCH", "PARENT", "CREATED", "EXPIRES", "OWN", "SHARED", "LOGICAL", ""], &rows);
    Ok(())
}

fn deleted_row(branch: &Branch) -> Vec<String> {
    let times = [
        Some(branch.create_time.as_str()),
        branch.status.delete_time.as_deref(),
        branch.status.purge_time.as_deref(),
    ];
    [branch.branch_id.clone(), parent(branch)]
        .into_iter()
        .chain(times.map(output::relative_or_none))
        .collect()
}

fn parent(branch: &Branch) -> String {
    let Some(name) = branch.status.source_branch.as_deref().and_then(|name| name.rsplit('/').next()) else {
        return "-".to_owned();
    };
    match branch.anabranch.as_ref().and_then(|own| own.source_fate.as_deref()) {
        Some(fate) => format!("{name} ({fate})"),
        None => name.to_owned(),
    }
}

fn marks(branch: &Branch) -> String {
    let damaged = branch.anabranch.as_ref().is_some_and(|own| own.damage.is_some());
    let status = &branch.status;
    let marks = [(status.default, "default"), (status.is_protected, "protected"), (damaged, "damaged")];
    marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark).collect::<Vec<_>>().join(", ")
}

/// Branches in order of descent, each with a drawing of where it left. What has lost its parent
/// stands at the left edge.
fn tree(branches: &[Branch]) -> Vec<(String, &Branch)> {
    let names: HashSet<&str> = branches.iter().map(|branch| branch.name.as_str()).collect();
    let mut children: HashMap<Option<&str>, Vec<&Branch>> = HashMap::new();
    for branch in branches {
        let parent = live_parent(branch).filter(|parent| names.contains(parent));
        children.entry(parent).or_default().push(branch);
    }
    let mut lines = Vec::new();
    for root in children.get(&None).into_iter().flatten() {
        lines.push((root.branch_id.clone(), *root));
        descend(&children, root, "", &mut lines);
    }
    lines
}

fn descend<'a>(
    all: &HashMap<Option<&str>, Vec<&'a Branch>>,
    parent: &Branch,
    indent: &str,
    lines: &mut Vec<(String, &'a Branch)>,
) {
    let children = all.get(&Some(parent.name.as_str())).map_or(&[][..], Vec::as_slice);
    for (place, child) in children.iter().enumerate() {
        let last = place + 1 == children.len();
        lines.push((format!("{indent}{} {}", if last { "└─" } else { "├─" }, child.branch_id), child));
        descend(all, child, &format!("{indent}{}  ", if last { " " } else { "│" }), lines);
    }
}

/// Name of the branch that it was made from, unless that is gone: another may have its name since.
fn live_parent(branch: &Branch) -> Option<&str> {
    let is_gone = branch.anabranch.as_ref().is_some_and(|own| own.source_fate.is_some());
    branch.status.source_branch.as_deref().filter(|_| !is_gone)
}

#[cfg(test)]
mod tests {
    use client::{BranchStatus, OwnBranch};

    use super::*;

    fn branch(id: &str, parent: Option<&str>) -> Branch {
        let name = |id: &str| format!("projects/p/branches/{id}");
        Branch {
            name: name(id),
            uid: id.to_owned(),
            branch_id: id.to_owned(),
            status: BranchStatus { source_branch: parent.map(name), ..BranchStatus::default() },
            ..Branch::default()
        }
    }

    #[test]
    fn a_tree_is_drawn() {
        let mut orphan = branch("orphan", Some("gone"));
        orphan.anabranch = Some(OwnBranch { source_fate: Some("expired".into()), ..OwnBranch::default() });
        let branches = [
            branch("production", None),
            branch("a", Some("production")),
            branch("b", Some("production")),
            branch("a1", Some("a")),
            orphan,
        ];
        let labels: Vec<String> = tree(&branches).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["production", "├─ a", "│  └─ a1", "└─ b", "orphan"]);
        assert_eq!(parent(&branches[4]), "gone (expired)");
    }

    #[test]
    fn a_new_branch_with_a_lost_parents_name_is_not_its_parent() {
        let mut orphan = branch("child", Some("dev"));
        orphan.anabranch = Some(OwnBranch { source_fate: Some("deleted".into()), ..OwnBranch::default() });
        let branches = [branch("dev", None), orphan];
        let labels: Vec<String> = tree(&branches).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["dev", "child"]);
    }
}
