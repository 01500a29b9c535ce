use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Print the certificate by which clients know the servers (sslrootcert)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print where it lies instead
    #[arg(long)]
    path: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let authority = global.client()?.authority().await?;
    output::data(if args.path { &authority.file } else { authority.certificate.trim_end() });
    Ok(())
}
