//! How long the files of a stack are together, as a reader sees them.

use crate::errno::Result;
use crate::flatten;
use crate::layer::{Kind, Layer, hidden_name};
use crate::path::RelPath;
use crate::stack::Stack;

/// Bytes of all files in the layers below slot `below`. Costs as much as there are files.
pub fn total(stack: &Stack, below: u32) -> Result<u64> {
    Ok(flatten::tree(stack, below)?.files.iter().map(|(_, length)| length).sum())
}

/// By how many bytes the layer at `slot` changes the total of those below it; none where it removed whole
/// directories, so that only [`total`] tells. Costs as much as the layer has files.
pub fn change(stack: &Stack, slot: u32) -> Result<Option<i64>> {
    let mut sum = 0;
    let layer = stack.layer(slot)?;
    let told = walk(stack, slot, &layer, &RelPath::ROOT, &mut sum)?;
    Ok(told.then_some(sum))
}

/// False where the layer removed a directory.
fn walk(stack: &Stack, slot: u32, layer: &Layer, at: &RelPath, sum: &mut i64) -> Result<bool> {
    let mut names = Vec::new();
    layer.list(at, &mut |name, kind| {
        names.push((name.to_vec(), kind));
        Ok(())
    })?;
    for (name, kind) in &names {
        if let Some(gone) = hidden_name(name) {
            let path = at.join(gone)?;
            let again = names.iter().find(|(name, _)| name == gone).map(|(_, kind)| *kind);
            let below = stack.find_below(slot, &path)?.map(|located| located.found);
            match (again, below) {
                (Some(Kind::Directory), _) => return Ok(false),
                (_, Some(below)) if below.kind == Kind::Directory => return Ok(false),
                // A file that is there again is counted under its own name.
                (Some(_), _) | (None, None) => {}
                (None, Some(below)) => *sum -= below.length as i64,
            }
            continue;
        }
        let path = at.join(name)?;
        if *kind == Kind::Directory {
            if !walk(stack, slot, layer, &path, sum)? {
                return Ok(false);
            }
        } else if let Some(here) = layer.find(&path)? {
            let below = stack.find_below(slot, &path)?.map_or(0, |located| located.found.length);
            *sum += here.length as i64 - below as i64;
        }
    }
    Ok(true)
}
