//! Docker's warning of images that this host may not be able to execute.

use crate::image::Platform;

/// What is to be said of an image that nobody asked to be of another platform than this host's (moby `daemon/create.go`).
pub fn warning(image: &Platform) -> Option<String> {
    warning_on(&host(), image)
}

fn warning_on(host: &Platform, image: &Platform) -> Option<String> {
    (!executes(host, image)).then(|| {
        format!(
            "The requested image's platform ({image}) does not match the detected host platform ({host}) and no specific \
             platform was requested"
        )
    })
}

/// This host's platform, with the level of its processor where amd64 has levels.
fn host() -> Platform {
    let host = Platform::host();
    let variant = level().map(|level| format!("v{level}")).or(host.variant);
    Platform { variant, ..host }
}

/// The processor's level (x86-64 psABI, "Microarchitecture levels").
#[cfg(target_arch = "x86_64")]
fn level() -> Option<u8> {
    use std::arch::is_x86_feature_detected as has;
    let second =
        has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let avx = has!("avx") && has!("avx2") && has!("f16c") && has!("fma");
    let third = second && avx && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe");
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    Some(1 + u8::from(second) + u8::from(third) + u8::from(third && avx512))
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> Option<u8> {
    None
}

/// Whether the host executes such an image: processors execute what was made for their predecessors (containerd
/// `platforms.Only`).
fn executes(host: &Platform, image: &Platform) -> bool {
    let number = |platform: &Platform| -> Option<u32> {
        platform.variant.as_deref()?.trim_start_matches('v').split('.').next()?.parse().ok()
    };
    if host.os != image.os {
        return false;
    }
    match (host.architecture.as_str(), image.architecture.as_str()) {
        ("amd64", "386") => true,
        // The 8th version is the first with 64 bits, and has the others' instructions too.
        (host, image) if host != image && (host, image) != ("arm64", "arm") => false,
        _ => match (number(host), number(image)) {
            (Some(host), Some(image)) => image <= host,
            _ => host.variant == image.variant || image.variant.as_deref().unwrap_or_default().is_empty(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_execute_what_was_made_for_their_predecessors() {
        for (host, image, expected) in [
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64/v4", false),
            ("linux/amd64/v3", "linux/386", true),
            ("linux/amd64/v3", "linux/arm64", false),
            ("linux/amd64/v3", "windows/amd64", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm/v7", true),
            ("linux/arm64/v8", "linux/amd64", false),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm/v8", false),
            ("linux/arm/v7", "linux/arm64", false),
            ("linux/s390x", "linux/s390x", true),
            ("linux/s390x", "linux/riscv64", false),
        ] {
            let platform = |text: &str| text.parse::<Platform>().unwrap();
            assert_eq!(warning_on(&platform(host), &platform(image)).is_none(), expected, "{host} {image}");
        }
    }
}
