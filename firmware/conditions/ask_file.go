package conditions

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/durable"
)

// Names of the two files of a FileAsker.
const (
	questionFile = "question.json" // ours
	answerFile   = "answer.json"   // the head unit's
)

const maxAnswer = 4 << 10 // bytes, of a file or a line

// FileAsker asks by two files in a folder that both programs reach: it writes question.json, a Question with a fresh random
// "question" beside it, and takes answer.json, which has to name both, {"campaign": …, "question": …, "consent": true, false or
// "later"}. The number, not a clock, makes an answer fresh: an older one names another. The answer is removed before it counts,
// so it counts once. It answers Pending while there is none.
type FileAsker struct {
	Dir  string
	UIDs []int     // whose answer counts
	Rand io.Reader // crypto/rand.Reader
}

// asking is the content of question.json.
type asking struct {
	Question
	Number string `json:"question"`
}

// Ask writes the question if it does not stand there yet, and looks for its answer.
func (f *FileAsker) Ask(ctx context.Context, q Question) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	number, err := f.put(q)
	if err != nil {
		return "", fmt.Errorf("%s: %w", questionFile, err)
	}
	answer, err := f.take(q.Campaign, number)
	if err != nil {
		return "", fmt.Errorf("%s: %w", answerFile, err)
	}
	if answer != Pending {
		err = f.Withdraw()
	}
	return answer, err
}

// Withdraw takes the question away.
func (f *FileAsker) Withdraw() error {
	err := os.Remove(filepath.Join(f.Dir, questionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncFolder(f.Dir))
}

// put writes the question unless the same one stands there, and gives back its number.
func (f *FileAsker) put(q Question) (string, error) {
	path := filepath.Join(f.Dir, questionFile)
	if data, err := readSmall(path, maxState); err == nil {
		var standing asking
		if json.Unmarshal(data, &standing) == nil && standing.Question == q && len(standing.Number) == 32 {
			return standing.Number, nil
		}
	}
	var number [16]byte
	if _, err := io.ReadFull(f.Rand, number[:]); err != nil {
		return "", err
	}
	a := asking{q, hex.EncodeToString(number[:])}
	data, err := json.Marshal(a)
	if err == nil && len(data) > maxState {
		err = errTooLong
	}
	if err != nil {
		return "", err
	}
	return a.Number, durable.Write(path, append(data, '\n'), 0o644)
}

// take reads and removes the answer. One that is not the head unit's, or not to this question, is removed as well: an error says why.
func (f *FileAsker) take(campaign, number string) (Answer, error) {
	path := filepath.Join(f.Dir, answerFile)
	// Not a link that somebody put there, and not a pipe that never ends.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return Pending, nil
	}
	if err == nil {
		file := os.NewFile(uintptr(fd), path)
		defer file.Close()
		var data []byte
		if data, err = f.read(file, fd); err == nil {
			var answer Answer
			if answer, err = parseAnswer(data, campaign, &number); err == nil {
				return answer, f.removeAnswer(path)
			}
		}
	}
	return "", errors.Join(err, f.removeAnswer(path))
}

// removeAnswer makes an answer count once: it is gone for good before it counts.
func (f *FileAsker) removeAnswer(path string) error {
	return errors.Join(os.Remove(path), durable.SyncFolder(f.Dir))
}

func (f *FileAsker) read(file *os.File, fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("not a plain file")
	case !slices.Contains(f.UIDs, int(st.Uid)):
		return nil, fmt.Errorf("owner is uid %d, who may not consent; allowed: %d", st.Uid, f.UIDs)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("mode %04o: others may write to it; chmod 0644", st.Mode&0o7777)
	case st.Nlink != 1:
		return nil, errors.New("it has a second name")
	}
	return readAll(file, maxAnswer)
}

// parseAnswer reads {"consent": …}, with the campaign it is for if it names one. A file, with a number, has to name both.
func parseAnswer(data []byte, campaign string, number *string) (Answer, error) {
	m, err := members(data)
	if err != nil {
		return "", err
	}
	if raw, ok := m["campaign"]; ok || number != nil {
		if c, err := text(raw, maxCampaign); err != nil || c != campaign {
			return "", errors.New("it does not name this campaign")
		}
	}
	if number != nil {
		if n, err := text(m["question"], 64); err != nil || subtle.ConstantTimeCompare([]byte(n), []byte(*number)) != 1 {
			return "", errors.New("it does not name this question")
		}
	}
	switch string(m["consent"]) {
	case "true":
		return Yes, nil
	case "false":
		return No, nil
	case `"later"`:
		return Later, nil
	}
	return "", fmt.Errorf(`consent: want true, false or "later", got %.40s`, m["consent"])
}
