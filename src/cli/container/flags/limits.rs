//! The flags of limits, which `create`, `run` and `update` have in common.

use clap::Args;

use super::values::{bytes, nano_cpus};
use crate::runtime::RuntimeError;
use crate::runtime::container::HostConfig;

/// Limits. What they may be is looked at where they are used (`runtime::limits`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// Weight of block device access, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Length of the CPU scheduler's period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// CPU time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Relative weight of CPU time
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// CPUs on which to run, as 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes from which to allocate
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<i64>,
    /// Memory that is kept when it gets tight
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

impl LimitFlags {
    /// The settings that they ask for, with all others as they are by default.
    pub fn resolve(&self) -> Result<HostConfig, RuntimeError> {
        // 0 is not given. What the kernel takes; runc refuses the rest.
        match self.cpu_shares {
            Some(1) => return Err(RuntimeError::usage("the minimum allowed cpu-shares is 2")),
            Some(262_145..) => return Err(RuntimeError::usage("the maximum allowed cpu-shares is 262144")),
            _ => {}
        }
        Ok(HostConfig {
            blkio_weight: self.blkio_weight.unwrap_or(0),
            cpu_period: self.cpu_period.unwrap_or(0),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpu_shares: self.cpu_shares.unwrap_or(0),
            nano_cpus: self.cpus.as_deref().map_or(Ok(0), nano_cpus)?,
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            memory: self.memory.unwrap_or(0),
            memory_reservation: self.memory_reservation.unwrap_or(0),
            memory_swap: self.memory_swap.unwrap_or(0),
            // As docker: 0 is not given.
            pids_limit: self.pids_limit.filter(|limit| *limit != 0),
            ..HostConfig::default()
        })
    }
}
