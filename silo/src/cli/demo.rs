//! The first minute.

use std::path::PathBuf;

use clap::Args;
use granary_core::Result;

use crate::demo::{self, Options};

use super::{NO, YES, block_on};

#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Decides the simulated devices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many devices
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// Keep the silo listening on 127.0.0.1:7400 until it is stopped
    #[arg(long)]
    serve: bool,
    /// Another pipeline in place of the demo's
    #[arg(long)]
    pipeline: Option<PathBuf>,
}

pub(crate) fn demo(arguments: DemoArguments, json: bool) -> Result<u8> {
    let DemoArguments { seed, devices, serve, pipeline } = arguments;
    let options = Options { seed, devices, serve, pipeline };
    let right = block_on(demo::demo(&options, |line| {
        if json {
            say!("{}", serde_json::json!({"said": line}));
        } else {
            say!("{line}");
        }
    }))?;
    Ok(if right { YES } else { NO })
}
