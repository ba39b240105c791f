//! Plays the library of NVIDIA's driver (`libnvidia-ml.so.1`): one device, with one process on it. Tests compile it to a library of that name.
//!
//! The file that `NIGHTSHIFT_FAKE_DRIVER` names says what it tells: the process's number, or `own` for whoever asks, the bytes that it
//! holds, and those that are in use on the device.

#![allow(non_snake_case, clippy::missing_safety_doc, reason = "the names are those of the driver")]

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

const SUCCESS: c_int = 0;
const INSUFFICIENT_SIZE: c_int = 7;

#[repr(C)]
pub struct Process {
    pid: c_uint,
    bytes: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[repr(C)]
pub struct Memory {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

fn told() -> (c_uint, u64, u64) {
    let file = std::env::var("NIGHTSHIFT_FAKE_DRIVER").expect("a file");
    let text = std::fs::read_to_string(file).expect("what to tell");
    let words: Vec<&str> = text.split_whitespace().collect();
    let pid = if words[0] == "own" { std::process::id() } else { words[0].parse().expect("a number") };
    (pid, words[1].parse().expect("bytes"), words[2].parse().expect("bytes"))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(_index: c_uint, device: *mut *mut c_void) -> c_int {
    unsafe { *device = std::ptr::without_provenance_mut(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(_: *mut c_void, count: *mut c_uint, processes: *mut Process) -> c_int {
    let room = unsafe { std::mem::replace(&mut *count, 1) };
    if room == 0 || processes.is_null() {
        return INSUFFICIENT_SIZE;
    }
    let (pid, bytes, _) = told();
    unsafe { *processes = Process { pid, bytes, gpu_instance: 0, compute_instance: 0 } };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(_: *mut c_void, memory: *mut Memory) -> c_int {
    unsafe { (*memory).used = told().2 };
    SUCCESS
}
