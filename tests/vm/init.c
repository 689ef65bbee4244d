/* The first process of a guest: mounts what a kernel test needs, runs the command in /shunt/argv, and hands its exit status to
 * QEMU through the isa-debug-exit device (port 0xf4; the kernels here have no /dev/port, hence ioperm). Linked statically.
 *
 * With /shunt/root it boots the disk /dev/vda instead, by that disk's own /sbin/init; something there ends the guest with
 * `init --leave STATUS`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { kExitPort = 0xf4, kCannotRun = 126, kItemsMax = 1024 };

static void leave(int status) {
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	if (ioperm(kExitPort, 1, 1) == 0) outb((unsigned char)status, kExitPort);
	for (;;) pause(); /* without the device the host's time limit ends the guest */
}

static void mount_one(const char* type, const char* where) {
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL) != 0) fprintf(stderr, "init: mount %s: %m\n", where);
}

/* A list of strings, each ended by a zero byte. */
static char** read_items(const char* path) {
	static char bytes[2][64 * 1024];
	static char* items[2][kItemsMax];
	static int used = 0;
	char* text = bytes[used];
	char** list = items[used++];
	int fd = open(path, O_RDONLY);
	ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof(bytes[0]) - 1);
	int count = 0;
	for (char* at = text; at < text + length && count < kItemsMax - 1; at += strlen(at) + 1) list[count++] = at;
	if (fd >= 0) close(fd);
	return list;
}

static void load_modules(void) {
	FILE* list = fopen("/shunt/modules", "r");
	char path[256];
	while (list && fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = 0;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0) fprintf(stderr, "init: module %s: %m\n", path);
		if (fd >= 0) close(fd);
	}
	if (list) fclose(list);
}

static void bring_up_loopback(void) {
	struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0) fprintf(stderr, "init: lo: %m\n");
	close(fd);
}

/* The kernel finds the disk a moment after its driver was loaded. */
static void boot_disk(void) {
	int tries = 100;
	mkdir("/disk", 0755);
	while (mount("/dev/vda", "/disk", "ext4", 0, NULL) != 0) {
		if (tries-- == 0) {
			fprintf(stderr, "init: mount /dev/vda: %m\n");
			leave(kCannotRun);
		}
		usleep(50 * 1000);
	}
	/* The disk's init mounts these itself. */
	static const char* const kMounted[] = {"/dev/shm", "/dev/pts", "/dev", "/sys/kernel/tracing", "/sys/fs/bpf", "/sys/fs/cgroup",
	                                       "/sys", "/proc"};
	for (size_t i = 0; i < sizeof(kMounted) / sizeof(kMounted[0]); i++) umount2(kMounted[i], MNT_DETACH);
	if (chdir("/disk") == 0 && mount(".", "/", NULL, MS_MOVE, NULL) == 0 && chroot(".") == 0 && chdir("/") == 0)
		execl("/sbin/init", "/sbin/init", (char*)NULL);
	fprintf(stderr, "init: /sbin/init of the disk: %m\n");
	leave(kCannotRun);
}

int main(int argc, char** argv0) {
	if (argc == 3 && strcmp(argv0[1], "--leave") == 0) leave(atoi(argv0[2]) & 0x7f);
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("devtmpfs", "/dev");
	/* /tmp and /run stay in the initramfs: the program or its files may have come from there. */
	chmod("/tmp", 01777);
	mount_one("cgroup2", "/sys/fs/cgroup");
	mount_one("bpf", "/sys/fs/bpf");
	mount_one("tracefs", "/sys/kernel/tracing");
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 01777);
	mount_one("devpts", "/dev/pts");
	mount_one("tmpfs", "/dev/shm");

	int console = open("/dev/console", O_RDWR);
	for (int fd = 0; fd <= 2; fd++) dup2(console, fd);
	struct termios settings;
	if (tcgetattr(0, &settings) == 0) {
		cfmakeraw(&settings);
		tcsetattr(0, TCSANOW, &settings);
	}
	load_modules();
	if (access("/shunt/root", F_OK) == 0) boot_disk();
	bring_up_loopback();
	struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_MEMLOCK, &unlimited);

	char** argv = read_items("/shunt/argv");
	char** envp = read_items("/shunt/env");
	if (!argv[0]) leave(kCannotRun);
	/* The host shows only what follows this line. */
	puts("shunt-guest: start");
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		int empty = open("/dev/null", O_RDONLY);
		dup2(empty, 0);
		setsid();
		execve(argv[0], argv, envp);
		fprintf(stderr, "init: %s: %m\n", argv[0]);
		_exit(kCannotRun);
	}
	int status = 0;
	/* Orphans are reaped on the way. */
	for (pid_t pid; (pid = wait(&status)) != child;)
		if (pid < 0) leave(kCannotRun);
	/* Seven bits: QEMU's own exit status is twice this, plus one. */
	leave(WIFEXITED(status) ? WEXITSTATUS(status) & 0x7f : 0x40 | WTERMSIG(status));
}
