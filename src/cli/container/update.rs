//! `ferry update`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::each;
use super::flags::values;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::lifecycle::{self, Update};

/// Change limits and restart policies
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Weight of block device access, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Length of the CPU scheduler's period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// CPU time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Relative weight of CPU time
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// CPUs on which to run
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes from which to allocate
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = values::bytes)]
    memory: Option<i64>,
    /// Memory that is kept when it gets tight
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// When to start it again
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Changes.
pub fn run(args: UpdateArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let update = Update {
        memory: args.memory,
        memory_swap: args.memory_swap,
        memory_reservation: args.memory_reservation,
        nano_cpus: args.cpus.as_deref().map(values::nano_cpus).transpose()?,
        cpu_shares: args.cpu_shares,
        cpu_period: args.cpu_period,
        cpu_quota: args.cpu_quota,
        cpuset_cpus: args.cpuset_cpus,
        cpuset_mems: args.cpuset_mems,
        pids_limit: args.pids_limit,
        blkio_weight: args.blkio_weight,
        restart_policy: args.restart.as_deref().map(values::restart_policy).transpose()?,
    };
    if update == Update::default() {
        return Err(RuntimeError::usage("you must provide one or more flags when using this command").into());
    }
    each(global, &args.containers, |dir| lifecycle::update(&global.root, dir, &update))
}
