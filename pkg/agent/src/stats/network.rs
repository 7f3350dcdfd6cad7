//! Counters of network interfaces, from `/proc/<pid>/net/dev` (proc(5)).
use std::fs;

/// One interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Bytes, packets, errors, drops.
    pub received: [u64; 4],
    pub sent: [u64; 4],
}

/// The interfaces of the pod that a process is in.
pub fn of_process(pid: i32) -> Vec<Interface> {
    parse(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

/// The machine's own, without those that lead to pods.
pub fn of_host() -> Vec<Interface> {
    let mut all = parse(&fs::read_to_string("/proc/net/dev").unwrap_or_default());
    all.retain(|interface| !interface.name.starts_with("veth"));
    all
}

fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let four = |from: usize| counters.get(from..from + 4).and_then(|four| four.try_into().ok());
        Some(Interface { name: name.trim().to_owned(), received: four(0)?, sent: four(8)? })
    };
    text.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_interface() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
            eth0:    2000      20    1    2    0     0          0         0     3000      30    3    4    0     0       0          0\n";
        let eth0 = Interface { name: "eth0".into(), received: [2000, 20, 1, 2], sent: [3000, 30, 3, 4] };
        assert_eq!(parse(text), [eth0]);
    }
}
