// labstore gives claims of the class "lab" their volumes: a loop-mounted XFS image of the size that
// was asked for, so that a full disk is a full disk (ENOSPC) and growth is real. The class
// "lab-fixed" is the same and does not grow.
//
// Volumes are local to the node that the scheduler chose. XFS, because it grows while it is mounted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
)

const (
	// The provisioner of the storage classes, and the finalizer of the volumes.
	driver       = "tidemark.dev/labstore"
	provisioned  = "pv.kubernetes.io/provisioned-by"
	selectedNode = "volume.kubernetes.io/selected-node"
	// XFS refuses less than 300 MB; tests want smaller disks than that.
	smallAllowed = "--unsupported"
)

type store struct {
	root    string
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
}

func labstore() {
	flags := flag.NewFlagSet("labstore", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "of the API server")
	root := flags.String("root", "", "folder of the images and mounts")
	_ = flags.Parse(os.Args[1:])
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(client, 30*time.Second)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	classes := factory.Storage().V1().StorageClasses()
	s := store{*root, client, claims.Lister(), volumes.Lister(), classes.Lister()}

	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	watch := func(informer cache.SharedIndexInformer) {
		add := func(object any) {
			if key, err := cache.MetaNamespaceKeyFunc(object); err == nil {
				queue.Add(key)
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }})
		if err != nil {
			log.Fatal(err)
		}
	}
	watch(claims.Informer())
	watch(volumes.Informer())
	classes.Informer()
	ctx := context.Background()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		key, _ := queue.Get()
		namespace, name, _ := cache.SplitMetaNamespaceKey(key)
		var err error
		if namespace == "" {
			err = s.volume(ctx, name)
		} else {
			err = s.claim(ctx, namespace, name)
		}
		if err != nil {
			log.Printf("%s: %v", key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func command(name string, arg ...string) (string, error) {
	out, err := exec.Command(name, arg...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(arg, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func mounted(path string) bool {
	mounts, _ := os.ReadFile("/proc/mounts")
	return strings.Contains(string(mounts), " "+path+" ")
}

func (s store) path(volume string) string  { return filepath.Join(s.root, volume) }
func (s store) image(volume string) string { return s.path(volume) + ".img" }

// mount mounts a volume, and makes it where it is not there and `bytes` says how large it is.
func (s store) mount(volume string, bytes int64) error {
	path, image := s.path(volume), s.image(volume)
	if mounted(path) {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(image); err != nil {
		if bytes == 0 {
			return fmt.Errorf("%s is gone", image)
		}
		// Made aside: a half-made image must not be taken for a whole one after a crash.
		making := image + ".making"
		_ = os.Remove(making)
		if _, err := command("truncate", "-s", fmt.Sprint(bytes), making); err != nil {
			return err
		}
		if _, err := command("mkfs.xfs", "-q", smallAllowed, making); err != nil {
			return err
		}
		if err := os.Rename(making, image); err != nil {
			return err
		}
	}
	if _, err := command("mount", "-o", "loop", image, path); err != nil {
		return err
	}
	return os.Chmod(path, 0o777)
}

func (s store) claim(ctx context.Context, namespace, name string) error {
	claim, err := s.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := s.classes.Get(*claim.Spec.StorageClassName)
	if err != nil || class.Provisioner != driver {
		return nil
	}
	want, have := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	grows := class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
	switch {
	case claim.Spec.VolumeName == "":
		return s.provision(ctx, claim, class.Name, *class.ReclaimPolicy)
	case claim.Status.Phase == v1.ClaimBound && want.Cmp(have) > 0 && grows:
		return s.grow(ctx, claim)
	}
	return nil
}

func (s store) provision(ctx context.Context, claim *v1.PersistentVolumeClaim, class string, reclaim v1.PersistentVolumeReclaimPolicy) error {
	node := claim.Annotations[selectedNode]
	if node == "" {
		return nil // the scheduler has not chosen yet
	}
	want := claim.Spec.Resources.Requests[v1.ResourceStorage]
	name := "pvc-" + string(claim.UID)
	if err := s.mount(name, want.Value()); err != nil {
		return err
	}
	here := v1.NodeSelectorRequirement{Key: "kubernetes.io/hostname", Operator: v1.NodeSelectorOpIn, Values: []string{node}}
	_, err := s.client.CoreV1().PersistentVolumes().Create(ctx, &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisioned: driver}, Finalizers: []string{driver}},
		Spec: v1.PersistentVolumeSpec{
			Capacity:                      v1.ResourceList{v1.ResourceStorage: want},
			AccessModes:                   claim.Spec.AccessModes,
			StorageClassName:              class,
			PersistentVolumeReclaimPolicy: reclaim,
			ClaimRef: &v1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: s.path(name)}},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
				{MatchExpressions: []v1.NodeSelectorRequirement{here}},
			}}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	log.Printf("made %s for %s/%s on %s: %v", name, claim.Namespace, claim.Name, node, err)
	return err
}

func (s store) grow(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	want, volume := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Spec.VolumeName
	if _, err := command("truncate", "-s", fmt.Sprint(want.Value()), s.image(volume)); err != nil {
		return err
	}
	device, err := command("losetup", "-n", "-O", "NAME", "-j", s.image(volume))
	if err != nil {
		return err
	}
	if _, err := command("losetup", "-c", device); err != nil {
		return err
	}
	if _, err := command("xfs_growfs", s.path(volume)); err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		volumes := s.client.CoreV1().PersistentVolumes()
		found, err := volumes.Get(ctx, volume, metav1.GetOptions{})
		if err != nil {
			return err
		}
		found.Spec.Capacity[v1.ResourceStorage] = want
		_, err = volumes.Update(ctx, found, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claims := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace)
		found, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		found.Status.Capacity[v1.ResourceStorage] = want
		found.Status.Conditions, found.Status.AllocatedResourceStatuses = nil, nil
		_, err = claims.UpdateStatus(ctx, found, metav1.UpdateOptions{})
		return err
	})
	log.Printf("grew %s/%s to %s: %v", claim.Namespace, claim.Name, want.String(), err)
	return err
}

func (s store) volume(ctx context.Context, name string) error {
	volume, err := s.volumes.Get(name)
	if err != nil || volume.Annotations[provisioned] != driver {
		return nil
	}
	if volume.DeletionTimestamp == nil {
		released := volume.Status.Phase == v1.VolumeReleased && volume.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete
		if !released {
			return s.mount(name, 0) // again, after a restart of the lab
		}
		err := s.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if mounted(s.path(name)) {
		if _, err := command("umount", s.path(name)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(s.path(name)), os.RemoveAll(s.image(name))); err != nil {
		return err
	}
	volume = volume.DeepCopy()
	volume.Finalizers = slices.DeleteFunc(volume.Finalizers, func(f string) bool { return f == driver })
	_, err = s.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{})
	log.Printf("deleted %s: %v", name, err)
	return err
}
