//! `ana-bench`: branches measured side by side with plain PostgreSQL.

mod bench;
mod clock;
mod daemon;
mod daemon_facts;
mod disk;
mod failure;
mod figures;
mod files;
mod ground;
mod home;
mod load;
mod options;
mod plain;
mod plan;
mod pooler;
mod process_time;
mod raw;
mod session;
mod site;
mod statistics;
mod table;

use std::process::ExitCode;

use clap::Parser;

use bench::Bench;
use failure::Result;
use figures::{
    connect, create, crowd, first_row, gate, http_create, idle, many, micro, proxy, sizes, space, throughput,
    turns, wake,
};
use options::{Options, Run, What};
use raw::Line;

type Figure = fn(&Bench) -> Result<()>;

fn main() -> ExitCode {
    match run(Options::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What lies between a client and its branch.
const DOOR: [Figure; 7] = [
    http_create::measure,
    connect::measure,
    wake::measure,
    crowd::measure,
    turns::measure,
    idle::measure,
    proxy::measure,
];

fn run(what: What) -> Result<()> {
    match what {
        What::Create(run) => measure(run, &[create::measure]),
        What::FirstRow(run) => measure(run, &[first_row::measure]),
        What::Gate(run) => measure(run, &[gate::measure]),
        What::Throughput(run) => measure(run, &[throughput::measure]),
        What::Space(run) => measure(run, &[space::measure]),
        What::Micro(run) => measure(run, &[micro::measure]),
        What::Sizes(run) => measure_sized(run, &[sizes::measure]),
        What::HttpCreate(run) => measure(run, &[http_create::measure]),
        What::Connect(run) => measure(run, &[connect::measure]),
        What::Wake(run) => measure(run, &[wake::measure]),
        What::Proxy(run) => measure(run, &[proxy::measure]),
        What::Idle(run) => measure(run, &[idle::measure]),
        What::Crowd(run) => measure(run, &[crowd::measure]),
        What::Turns(run) => measure(run, &[turns::measure]),
        What::Many(run) => measure(run, &[many::measure]),
        What::Door(run) => measure(run, &DOOR),
        What::All(run) => {
            let mut figures: Vec<Figure> = vec![
                micro::measure,
                create::measure,
                first_row::measure,
                gate::measure,
                space::measure,
                throughput::measure,
                sizes::measure,
            ];
            if run.daemon.is_some() {
                figures.extend(DOOR);
            }
            measure_sized(run, &figures)
        }
        What::Report { files } => {
            for file in files {
                print(&raw::read(&file)?);
            }
            Ok(())
        }
        What::MicroCalls { access, file, calls } => micro::calls(access, &file, calls),
    }
}

/// Runs some figures; what was measured is printed even where a later one fails.
fn measure(options: Run, figures: &[Figure]) -> Result<()> {
    run_figures(&Bench::prepare(options, false)?, figures)
}

/// As [`measure`], where computes can be held to sizes.
fn measure_sized(options: Run, figures: &[Figure]) -> Result<()> {
    run_figures(&Bench::prepare(options, true)?, figures)
}

fn run_figures(bench: &Bench, figures: &[Figure]) -> Result<()> {
    let outcome = figures.iter().try_for_each(|figure| figure(bench));
    print(&bench.lines());
    outcome
}

fn print(lines: &[Line]) {
    for line in lines {
        if let Line::Run(run) = line {
            println!(
                "PostgreSQL {}; load: {}; {} × {}, {} MiB; Linux {}, {}; branches through the {}.\n",
                run.postgres,
                run.load,
                run.processors,
                run.processor,
                run.memory_mib,
                run.kernel,
                run.file_system,
                run.through
            );
            if !run.optimised {
                println!("**Built without optimisation: not to be quoted.**\n");
            }
            if !run.reductions.is_empty() {
                println!("**Reduced, not to be quoted:** {}.\n", run.reductions.join("; "));
            }
        }
    }
    for table in figures::tables(lines) {
        println!("{table}");
    }
}
