use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Print the certificate by which clients know the servers (sslrootcert)
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: PGSSLROOTCERT=$(ana ca --path) psql \"$(ana url dev)\"")]
pub struct Args {
    /// Print where it lies instead
    #[arg(long)]
    path: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "path")]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let authority = global.client()?.authority().await?;
    if args.json {
        return output::json(&authority);
    }
    output::data(if args.path { &authority.file } else { authority.certificate.trim_end() });
    Ok(())
}
