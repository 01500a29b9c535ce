use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Print the daemon's figures in the text format of Prometheus
#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(global: &Global, _: Args) -> Result<(), Failure> {
    output::data(global.client()?.metrics().await?.trim_end());
    Ok(())
}
