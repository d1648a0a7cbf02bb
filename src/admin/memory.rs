//! Memory of the process, as the kernel counts it.

/// In bytes; 0 where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident and not of a file: heap and stacks.
    pub anonymous: u64,
    /// Mapped for data.
    pub data: u64,
    /// Resident in all.
    pub resident: u64,
}

/// What it is now.
pub fn read() -> Memory {
    parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn parse(status: &str) -> Memory {
    let bytes = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory { anonymous: bytes("RssAnon"), data: bytes("VmData"), resident: bytes("VmRSS") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let memory = parse("VmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\nVmRSSx: 9 kB\n");
        assert_eq!(memory, Memory { anonymous: 1 << 20, data: 0, resident: 2 << 20 });
        assert!(read().resident > 0);
    }
}
