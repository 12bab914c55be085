//! Which containers were made of which images: what stands against removing those.

use crate::base::BoxFault;
use crate::runtime::container::Containers;
use crate::store::{ContainerUse, Store};

/// The containers of this store. Docker's own are known to the store itself.
pub fn of_images(store: &Store) -> Result<Vec<ContainerUse>, BoxFault> {
    let all = Containers::new(store.root()).all()?;
    let uses = all.into_iter().map(|(_, container, state)| ContainerUse {
        container: container.id,
        image: container.image,
        running: state.status.is_live(),
    });
    Ok(uses.collect())
}
