//! Which images of a bundle are taken where a name stands for several platforms, or one is asked for; as of archives.

use std::collections::HashMap;

use super::BundleSource;
use crate::archive::ArchiveError;
use crate::base::Ctx;
use crate::image::{Image, Platform, Reference};

impl BundleSource {
    /// Keeps the images for the platform that is `wanted`; without it those for this host where a name stands for several
    /// platforms, with a warning that names the others. An image without a name stands for itself. Fails when a name has
    /// no image for the platform.
    pub fn for_platform(mut self, wanted: Option<&Platform>, ctx: &Ctx) -> Result<Self, ArchiveError> {
        let mut present: HashMap<Reference, Vec<Platform>> = HashMap::new();
        for image in &self.images {
            for name in &image.names {
                let platforms = present.entry(name.clone()).or_default();
                let platform = image.config.platform();
                if !platforms.contains(&platform) {
                    platforms.push(platform);
                }
            }
        }
        let mut chosen: HashMap<&Reference, Platform> = HashMap::new();
        for image in &self.images {
            let named = image.names.iter().filter_map(|name| present.get_key_value(name));
            for (name, platforms) in named {
                if !chosen.contains_key(name) {
                    chosen.insert(name, self.choose(Some(name), platforms, wanted, ctx)?);
                }
            }
            if image.names.is_empty() {
                self.choose(None, &[image.config.platform()], wanted, ctx)?;
            }
        }
        let keep = |image: &mut Image| {
            let (platform, nameless) = (image.config.platform(), image.names.is_empty());
            image.names.retain(|name| chosen.get(name) == Some(&platform));
            nameless || !image.names.is_empty()
        };
        self.images.retain_mut(keep);
        Ok(self)
    }

    /// The one of the platforms `present`, of which there is at least one, that is taken.
    fn choose(
        &self,
        name: Option<&Reference>,
        present: &[Platform],
        wanted: Option<&Platform>,
        ctx: &Ctx,
    ) -> Result<Platform, ArchiveError> {
        let best = |wanted: &Platform| Platform::best(present, wanted).map(|at| present[at].clone());
        let origin = || self.bundle.origin().to_owned();
        let of = || name.map(|name| format!(" of {name}")).unwrap_or_default();
        match (wanted, present) {
            (Some(wanted), _) => best(wanted).ok_or_else(|| {
                let (wanted, present) = (Box::new(wanted.clone()), present.to_vec());
                ArchiveError::Platform { origin: origin(), wanted, of: of(), present }
            }),
            (None, [only]) => Ok(only.clone()),
            (None, _) => {
                let ambiguous =
                    || ArchiveError::AmbiguousPlatform { origin: origin(), of: of(), present: present.to_vec() };
                let taken = best(&Platform::host()).ok_or_else(ambiguous)?;
                let others = present.iter().filter(|platform| **platform != taken).map(ToString::to_string);
                ctx.warn(format!(
                    "{}:{} only {taken} is taken, not {} (--platform chooses another)",
                    origin(),
                    of(),
                    others.collect::<Vec<_>>().join(", ")
                ));
                Ok(taken)
            }
        }
    }
}
