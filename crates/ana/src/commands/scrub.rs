use client::{Scrub, ScrubFinding};

use crate::context::Global;
use crate::failure::{Exit, Failure};
use crate::output::{self, Progress};

/// What `ana doctor --scrub` does.
pub async fn run(global: &Global, json: bool) -> Result<(), Failure> {
    let client = global.client()?;
    let mut progress = Progress::new();
    let scrub = client
        .scrub(|done, total| {
            progress.show(&format!("verified {} of {}", output::bytes(done), output::bytes(total)));
        })
        .await?;
    drop(progress);
    if json {
        output::json(&scrub)?;
    } else {
        scrub.findings.iter().flat_map(lines).for_each(output::data);
        output::data(summary(&scrub));
    }
    match scrub.findings.iter().filter(|finding| finding.grade == "damage").count() {
        0 => Ok(()),
        count => {
            let things = if count == 1 { "one thing is".to_owned() } else { format!("{count} things are") };
            Err(Failure::new(Exit::Failed, format!("{things} damaged")).with_hint(
                "branches that are not named above are not concerned; damage is not repaired, only \
                 a copy of the file, or deleting the branches, removes it",
            ))
        }
    }
}

fn lines(finding: &ScrubFinding) -> Vec<String> {
    let block = finding.block.map(|block| format!(" block {block}")).unwrap_or_default();
    // What concerns a manifest names its path itself.
    let place = if finding.what.contains(&finding.path) {
        String::new()
    } else {
        format!("{}{block} ", finding.path)
    };
    let first = format!("{:<8}  {place}{}", finding.grade, finding.what);
    let mut lines = vec![first];
    if !finding.branches.is_empty() {
        lines.push(format!(
            "{:<10}read by {}",
            "",
            finding.branches.iter().map(|name| short(name)).collect::<Vec<_>>().join(", ")
        ));
    }
    lines
}

/// `projects/shop/branches/dev` as people write it: `shop/dev`.
fn short(name: &str) -> String {
    match name.strip_prefix("projects/").and_then(|rest| rest.split_once("/branches/")) {
        Some((project, branch)) => format!("{project}/{branch}"),
        None => name.to_owned(),
    }
}

fn summary(scrub: &Scrub) -> String {
    let open = scrub.layers - scrub.sealed.min(scrub.layers);
    format!(
        "verified {} in {} layers of {} branches; {open} more layers are written to",
        output::bytes(scrub.bytes),
        scrub.sealed,
        scrub.branches
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_file_block_and_branches() {
        let finding = ScrubFinding {
            grade: "damage".into(),
            path: "/home/ana/layers/1/2/f/base/5/16384".into(),
            block: Some(7),
            what: "page checksum is 0001, the content gives 0002".into(),
            branches: vec!["projects/shop/branches/dev".into(), "br-1".into()],
            ..ScrubFinding::default()
        };
        let expected = [
            "damage    /home/ana/layers/1/2/f/base/5/16384 block 7 page checksum is 0001, the content gives 0002",
            "          read by shop/dev, br-1",
        ];
        assert_eq!(lines(&finding), expected);
    }
}
