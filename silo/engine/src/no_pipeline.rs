//! The pipeline of a silo that hosts grains only.

use granary_cluster::{Applied, Cause, Cells, CommitNo, Effects, Failure, Pipeline, Record};
use granary_core::{Error, ErrorKind, GrainId, Ran, Result, SlotId, Timestamp};

/// No sources, no built-in grains.
pub(crate) struct NoPipeline;

impl Pipeline for NoPipeline {
    fn route(&mut self, _: &Record<'_>) -> SlotId {
        SlotId(0)
    }

    fn apply(&mut self, _: SlotId, _: &Record<'_>, _: &mut Effects) -> Result<Applied, Failure> {
        Ok(Applied::Done)
    }

    fn supply(&mut self, _: SlotId, _: &[u8], _: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn poison(&mut self, _: SlotId, _: &Record<'_>, _: &str, _: &mut Effects) {}

    fn tick(&mut self, _: SlotId, _: Timestamp, _: Cause, _: &mut Effects) -> Result<Applied, Failure> {
        Ok(Applied::Done)
    }

    fn end(&mut self, _: SlotId, _: Cause, _: &mut Effects) -> Result<Applied, Failure> {
        Ok(Applied::Done)
    }

    fn seal(&mut self, _: SlotId, _: CommitNo, _: &mut Cells) {}

    fn acknowledged(&mut self, _: SlotId, _: CommitNo) {}

    fn close(&mut self, _: SlotId) {}

    fn ask(
        &mut self,
        _: SlotId,
        grain: &GrainId,
        _: &str,
        _: &[u8],
        _: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let message = format!("this silo runs no pipeline, so there is no {grain}");
        Err(Error::new(ErrorKind::NotFound, message).ran(Ran::No))
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn evict(&mut self, _: usize) {}

    fn streams(&self) -> &[String] {
        &[]
    }
}
