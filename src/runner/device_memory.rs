//! What this process holds of a device's memory, as NVIDIA's driver sees it: the runtime's arenas, and all that its provider needs beside them.

use nvml_wrapper::{Device, Nvml, enums::device::UsedGpuMemory, error::NvmlError};

/// The driver's library, asked for this process alone.
#[derive(Debug)]
pub(super) struct DeviceMemory(Nvml);

/// A process that computes on a device, and the bytes that the driver says it holds there.
type Tenant = (u32, Option<u64>);

impl DeviceMemory {
    /// Loads the driver's library.
    ///
    /// # Errors
    /// Its own words.
    pub(super) fn open() -> Result<Self, NvmlError> {
        Nvml::init().map(Self)
    }

    /// Bytes on all devices, of which a runner has one; `None` where the driver does not tell. `has_model` says whether there can be any.
    pub(super) fn held(&self, has_model: bool) -> Option<u64> {
        let own = std::process::id();
        let devices: Vec<Device<'_>> = (0..self.0.device_count().ok()?).filter_map(|index| self.0.device_by_index(index).ok()).collect();
        let seen: Vec<Vec<Tenant>> = devices.iter().map(tenants).collect();
        let of_own = seen.iter().flatten().filter(|(pid, _)| *pid == own).filter_map(|(_, bytes)| *bytes).sum();
        if of_own > 0 {
            return Some(of_own);
        }
        // In a container the driver may know this process by another number, or not how much is its. Who is alone on the only device has all.
        match (&devices[..], &seen[..]) {
            ([device], [tenants]) if has_model && tenants.len() == 1 => tenants[0].1.or_else(|| Some(device.memory_info().ok()?.used)),
            _ => None,
        }
    }
}

fn tenants(device: &Device<'_>) -> Vec<Tenant> {
    let bytes = |used: UsedGpuMemory| match used {
        UsedGpuMemory::Used(bytes) if bytes > 0 => Some(bytes),
        UsedGpuMemory::Used(_) | UsedGpuMemory::Unavailable => None,
    };
    let processes = device.running_compute_processes().unwrap_or_default();
    processes.into_iter().map(|process| (process.pid, bytes(process.used_gpu_memory))).collect()
}
