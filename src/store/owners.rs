//! Whose the files of a store are.

use std::fs::File;

use super::error::StoreError;
use super::packed::Packed;
use super::{Store, layerdb};
use crate::base::AtPath;
use crate::image::ChainId;
use crate::layer::Owners;

impl Store {
    /// Whose the files are that the layers up to `top` show together, where they have but one owner on disk
    /// ([`super::Options::single_id`]); `None` where each has its own.
    pub fn owners(&self, top: Option<ChainId>) -> Result<Option<Owners>, StoreError> {
        if !self.options.single_id {
            return Ok(None);
        }
        let (mut chain, mut next) = (Vec::new(), top);
        while let Some(chain_id) = next {
            let record = layerdb::read(&self.layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id))?;
            next = record.parent;
            chain.push(record.chain_id);
        }
        let mut owners = Owners::default();
        for chain_id in chain.into_iter().rev() {
            let packed = Packed::of_store(&self.layout, chain_id)?;
            let tar_split = File::open(&packed.tar_split).at("open", &packed.tar_split)?;
            owners.add(tar_split).map_err(|source| packed.fault(source))?;
        }
        Ok(Some(owners))
    }
}
